"""TIFF files for tests, uncompressed, with any tags, of either byte order, classic or BigTIFF."""

import struct


def tiff(*pages, photometric=1, extra=(), order="<", big=False, planar=1, more=()):
    """The content of a TIFF file of these pages, [h, w] or [h, w, channels] of any type."""
    pointer, room = (f"{order}Q", 8) if big else (f"{order}I", 4)
    head = struct.pack(f"{order}HHHQ", 43, 8, 0, 0) if big else struct.pack(f"{order}HI", 42, 0)
    out = bytearray((b"II" if order == "<" else b"MM") + head)
    link = len(out) - room
    for page in pages:
        page = page if page.ndim == 3 else page[..., None]
        height, width, channels = page.shape
        data = page.astype(page.dtype.newbyteorder(order))
        data = (data.transpose(2, 0, 1) if planar == 2 else data).tobytes()
        strips = channels if planar == 2 else 1
        offsets = [len(out) + k * len(data) // strips for k in range(strips)]
        out += data
        kind = {"u": 1, "i": 2, "f": 3}[page.dtype.kind]
        tags = {
            256: (4, [width]),
            257: (4, [height]),
            258: (3, [8 * page.dtype.itemsize] * channels),
            259: (3, [1]),
            262: (3, [photometric]),
            273: (4, offsets),
            277: (3, [channels]),
            278: (4, [height]),
            279: (4, [len(data) // strips] * strips),
            284: (3, [planar]),
            339: (3, [kind] * channels),
        }
        tags |= {338: (3, extra)} if extra else {}
        tags |= dict(more)
        entries = []
        for tag, (form, values) in sorted(tags.items()):
            body = b"".join(struct.pack(order + {3: "H", 4: "I"}[form], value) for value in values)
            if len(body) > room:
                place, body = struct.pack(pointer, len(out)), body
                out += body + b"\0" * (len(body) % 2)
                body = place
            head = struct.pack(order + ("HHQ" if big else "HHI"), tag, form, len(values))
            entries.append(head + body.ljust(room, b"\0"))
        out += b"\0" * (len(out) % 2)
        struct.pack_into(pointer, out, link, len(out))
        out += struct.pack(order + ("Q" if big else "H"), len(entries)) + b"".join(entries)
        link = len(out)
        out += b"\0" * room
    return bytes(out)
