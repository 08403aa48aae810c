"""Keys in positions of snapshots, where columns of them are masked: sealed under `mask_key`, so that neither the state store nor
a ledger in a sink's database holds what the mask keeps away (Invariant 9).

The construction is a synthetic IV, in the manner of RFC 5297, over keyed BLAKE2b: the tag of a text is the nonce of its key
stream, and is checked when it is opened. Equal texts are sealed alike, as their masks are equal too.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from hashlib import blake2b
from hmac import compare_digest
from itertools import count

import msgspec

from connectors.sources._cdc_config import PostgresCdcConfig
from connectors.sources._cdc_snapshot_positions import Key, Progress, Reached
from penstock.errors import EnvironmentFault

_TAG, _BLOCK = 16, 64
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(tuple[str, ...]).decode


class Seal:
    """Seals progress before it is stored, and opens it again."""

    def __init__(self, config: PostgresCdcConfig) -> None:
        secret = b"" if config.mask_key is None else config.mask_key.reveal().encode()
        self._masked = frozenset(config.mask)
        self._tag_key = blake2b(secret, digest_size=32, person=b"penstock-tag").digest()
        self._stream_key = blake2b(secret, digest_size=32, person=b"penstock-stream").digest()

    def close(self, progress: Progress) -> Progress:
        """As it may be stored."""
        if not self._masked & set(progress.key):
            return progress
        after = None if progress.after is None else self._close(progress.after)
        bounds = tuple(map(self._close, progress.bounds))
        return msgspec.structs.replace(progress, after=after, bounds=bounds, sealed=True)

    def open(self, found: Reached) -> Reached:
        """:raises EnvironmentFault: `snapshot.mask_key`, of one that was sealed under another key."""
        progress = found.progress
        if not progress.sealed:
            return found
        after = None if progress.after is None else self._open(progress, progress.after)
        bounds = tuple(self._open(progress, bound) for bound in progress.bounds)
        opened = msgspec.structs.replace(progress, after=after, bounds=bounds, sealed=False)
        return msgspec.structs.replace(found, progress=opened)

    def _close(self, key: Key) -> Key:
        text = _encode(key)
        tag = self._tag(text)
        return (b64encode(tag + self._crypt(tag, text)).decode(),)

    def _open(self, progress: Progress, sealed: Key) -> Key:
        raw = b64decode(sealed[0])
        tag, text = raw[:_TAG], self._crypt(raw[:_TAG], raw[_TAG:])
        if not compare_digest(tag, self._tag(text)):
            raise EnvironmentFault(
                "snapshot.mask_key",
                f"the snapshot {progress.snapshot} of {progress.title} was begun with another `mask_key`",
                why="where it stands is sealed under it, for columns of the key are masked",
                help="the old `mask_key`, until it is done; or, to go on without its other rows: "
                f"pipe checkpoint reset PIPELINE --partition '{progress.partition}'",
            )
        return _decode(text)

    def _tag(self, text: bytes) -> bytes:
        return blake2b(text, key=self._tag_key, digest_size=_TAG).digest()

    def _crypt(self, tag: bytes, text: bytes) -> bytes:
        stream = b""
        for block in count():
            if len(stream) >= len(text):
                break
            stream += blake2b(tag + block.to_bytes(8, "big"), key=self._stream_key, digest_size=_BLOCK).digest()
        return bytes(one ^ other for one, other in zip(text, stream, strict=False))
