BEGIN TRANSACTION;
CREATE TABLE lines (id INTEGER PRIMARY KEY, name TEXT);
INSERT INTO "lines" VALUES(1,'one');
INSERT INTO "lines" VALUES(2,'two');
CREATE TABLE penstock_job_records (
                ledger INTEGER NOT NULL, job TEXT NOT NULL, event TEXT NOT NULL,
                PRIMARY KEY (ledger, job, event)) WITHOUT ROWID;
CREATE TABLE penstock_key_generations (
                ledger INTEGER NOT NULL, number INTEGER NOT NULL, began REAL NOT NULL, latest REAL NOT NULL, high BLOB NOT NULL,
                PRIMARY KEY (ledger, number)) WITHOUT ROWID;
INSERT INTO "penstock_key_generations" VALUES(1,1,1.0,1.0,X'00000000000000000000000000000002');
CREATE TABLE penstock_keys_1_1 (key BLOB PRIMARY KEY, brought_by BLOB NOT NULL) WITHOUT ROWID;
INSERT INTO "penstock_keys_1_1" VALUES(X'00000000000000000000000000000001',X'65312D2D2D2D2D2D');
INSERT INTO "penstock_keys_1_1" VALUES(X'00000000000000000000000000000002',X'65322D2D2D2D2D2D');
CREATE TABLE penstock_ledgers (
                number INTEGER PRIMARY KEY,
                scope TEXT NOT NULL UNIQUE,
                instance TEXT NOT NULL,
                source TEXT NOT NULL,
                key_space TEXT NOT NULL,
                "window" REAL NOT NULL,
                epoch INTEGER NOT NULL,
                "group" INTEGER NOT NULL,
                counts TEXT NOT NULL,
                running REAL NOT NULL);
INSERT INTO "penstock_ledgers" VALUES(1,'orders/warehouse','11111111111111111111111111111111','file:in','k1',100.0,1,1,'{"received":1,"delivered":1,"filtered":0,"deduplicated":0,"dead_lettered":0,"derived":0}',1.0);
CREATE TABLE penstock_meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
INSERT INTO "penstock_meta" VALUES('ledger','1');
CREATE TABLE penstock_positions (
                ledger INTEGER NOT NULL, "partition" TEXT NOT NULL, "order" BLOB NOT NULL, detail BLOB NOT NULL,
                PRIMARY KEY (ledger, "partition")) WITHOUT ROWID;
INSERT INTO "penstock_positions" VALUES(1,'p',X'00000002',X'64657461696C');
CREATE TABLE penstock_sink_states (
                ledger INTEGER NOT NULL, sink TEXT NOT NULL, state BLOB NOT NULL,
                PRIMARY KEY (ledger, sink)) WITHOUT ROWID;
COMMIT;
