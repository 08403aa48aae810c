BEGIN TRANSACTION;
CREATE TABLE bodies (letter INTEGER PRIMARY KEY, record BLOB NOT NULL, original BLOB);
INSERT INTO "bodies" VALUES(1,X'7B226964223A317D',X'726177');
INSERT INTO "bodies" VALUES(2,X'7B226964223A317D',X'726177');
CREATE TABLE epochs (
                epoch INTEGER PRIMARY KEY, pid INTEGER NOT NULL, host TEXT NOT NULL, version TEXT NOT NULL,
                started_at REAL NOT NULL, run_id TEXT NOT NULL DEFAULT '');
INSERT INTO "epochs" VALUES(1,4711,'host','v1',1000000.0,'');
CREATE TABLE jobs (
                id TEXT PRIMARY KEY, kind TEXT NOT NULL, query TEXT NOT NULL, created_at REAL NOT NULL, finished_at REAL);
INSERT INTO "jobs" VALUES('j1','replay','{}',1000000.0,NULL);
CREATE TABLE letters (
        seq INTEGER PRIMARY KEY, pending INTEGER, id TEXT NOT NULL, version TEXT NOT NULL, step TEXT NOT NULL, code TEXT NOT NULL,
        message TEXT NOT NULL, why TEXT, help TEXT, violations TEXT NOT NULL, fingerprint TEXT NOT NULL,
        "partition" TEXT NOT NULL, position BLOB NOT NULL, source TEXT NOT NULL, event_id TEXT NOT NULL, type TEXT NOT NULL,
        time TEXT, event BLOB NOT NULL, original_length INTEGER NOT NULL, original_digest TEXT NOT NULL, reread INTEGER NOT NULL,
        owed TEXT NOT NULL, delivered TEXT NOT NULL, key BLOB, brought_by BLOB NOT NULL, data_digest BLOB NOT NULL,
        attempts INTEGER NOT NULL, repeats INTEGER NOT NULL, first_at REAL NOT NULL, last_at REAL NOT NULL,
        status TEXT NOT NULL, job TEXT);
INSERT INTO "letters" VALUES(1,NULL,'l1','v1','validate-1','validate.failed','l1 has no price',NULL,NULL,'[]','f1','p',X'00000001','file:in','l1','order.line',NULL,X'7B7D',3,'d',0,'["a","b"]','[]',X'00000000000000000000000000000001',X'3132333435363738',X'64617461',1,0,1.0,1.0,'open',NULL);
INSERT INTO "letters" VALUES(2,2,'l2','v1','validate-1','validate.failed','l2 has no price',NULL,NULL,'[]','f1','p',X'00000003','file:in','l2','order.line',NULL,X'7B7D',3,'d',0,'["a","b"]','[]',X'00000000000000000000000000000003',X'3132333435363738',X'64617461',1,0,3.0,3.0,'open',NULL);
CREATE TABLE note (
                number INTEGER PRIMARY KEY, "group" INTEGER NOT NULL, counts TEXT NOT NULL, ledgers TEXT NOT NULL,
                running REAL NOT NULL, drained INTEGER NOT NULL, at REAL NOT NULL, epoch INTEGER NOT NULL DEFAULT 0, groups TEXT NOT NULL DEFAULT '{}');
INSERT INTO "note" VALUES(1,1,'{"received":0,"delivered":0,"filtered":0,"deduplicated":0,"dead_lettered":0,"derived":0}','{"state":"i"}',1.0,1,9.0,0,'{}');
CREATE TABLE note_positions (
                ledger INTEGER NOT NULL, "partition" TEXT NOT NULL, "order" BLOB NOT NULL, detail BLOB NOT NULL,
                PRIMARY KEY (ledger, "partition")) WITHOUT ROWID;
INSERT INTO "note_positions" VALUES(1,'p',X'00000002',X'64657461696C');
CREATE TABLE penstock_job_records (
                ledger INTEGER NOT NULL, job TEXT NOT NULL, event TEXT NOT NULL,
                PRIMARY KEY (ledger, job, event)) WITHOUT ROWID;
CREATE TABLE penstock_key_generations (
                ledger INTEGER NOT NULL, number INTEGER NOT NULL, began REAL NOT NULL, latest REAL NOT NULL, high BLOB NOT NULL, over INTEGER NOT NULL DEFAULT 0,
                PRIMARY KEY (ledger, number)) WITHOUT ROWID;
INSERT INTO "penstock_key_generations" VALUES(1,1,1.0,1.0,X'00000000000000000000000000000002',0);
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
                running REAL NOT NULL, run_id TEXT NOT NULL DEFAULT '');
INSERT INTO "penstock_ledgers" VALUES(1,'orders/state','11111111111111111111111111111111','file:in','k1',100.0,1,1,'{"received":1,"delivered":1,"filtered":0,"deduplicated":0,"dead_lettered":0,"derived":0}',1.0,'');
CREATE TABLE penstock_meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
INSERT INTO "penstock_meta" VALUES('ledger','2');
INSERT INTO "penstock_meta" VALUES('state store','3');
CREATE TABLE penstock_positions (
                ledger INTEGER NOT NULL, "partition" TEXT NOT NULL, "order" BLOB NOT NULL, detail BLOB NOT NULL,
                PRIMARY KEY (ledger, "partition")) WITHOUT ROWID;
INSERT INTO "penstock_positions" VALUES(1,'p',X'00000002',X'64657461696C');
CREATE TABLE penstock_sink_states (
                ledger INTEGER NOT NULL, sink TEXT NOT NULL, state BLOB NOT NULL,
                PRIMARY KEY (ledger, sink)) WITHOUT ROWID;
INSERT INTO "penstock_sink_states" VALUES(1,'file',X'7374617465');
CREATE TABLE repeats (
        pending INTEGER NOT NULL, kind TEXT NOT NULL, letter TEXT NOT NULL, "partition" TEXT NOT NULL, position BLOB NOT NULL,
        PRIMARY KEY (pending, kind, letter, "partition", position)) WITHOUT ROWID;
CREATE TABLE replays (
    letter TEXT NOT NULL, ledger TEXT NOT NULL, "group" INTEGER NOT NULL, PRIMARY KEY (letter, ledger)) WITHOUT ROWID;
CREATE TABLE versions (
                version TEXT PRIMARY KEY, config TEXT NOT NULL, schemas TEXT NOT NULL, steps TEXT NOT NULL,
                created_at REAL NOT NULL);
INSERT INTO "versions" VALUES('v1','{"pipeline":"orders"}','{"shop@1":"{}"}','{"grade":"abc"}',5.0);
CREATE UNIQUE INDEX letters_id ON letters (id, ifnull(pending, -1));
CREATE INDEX letters_pending ON letters (pending) WHERE pending IS NOT NULL;
CREATE INDEX letters_key ON letters (key) WHERE key IS NOT NULL AND status IN ('open', 'parked', 'replaying', 'discarded');
CREATE INDEX letters_page ON letters (first_at, id, status) WHERE pending IS NULL;
CREATE INDEX letters_age ON letters (last_at) WHERE pending IS NULL;
CREATE INDEX letters_cause ON letters (fingerprint, first_at, last_at, repeats, status) WHERE pending IS NULL;
CREATE INDEX letters_status ON letters (status) WHERE pending IS NULL;
COMMIT;
