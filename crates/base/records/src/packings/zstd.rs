//! zstd (RFC 8878), any number of frames.

use super::Packing;

pub(crate) const PACKING: Packing = Packing {
    name: "zstd",
    extension: "zst",
    tar_extension: "tzst",
    // A frame, or a skippable frame before it.
    recognise: |head| matches!(head, [0x28, 0xB5, 0x2F, 0xFD, ..] | [0x50..=0x5F, 0x2A, 0x4D, 0x18, ..]),
    unpack: |packed, _| Ok(Box::new(zstd::stream::read::Decoder::with_buffer(packed)?)),
};
