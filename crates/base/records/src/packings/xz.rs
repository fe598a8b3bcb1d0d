//! xz, any number of streams.

use super::Packing;

/// The largest dictionary that is set up, KiB: what zstd's decoder allows too.
const MAX_DICTIONARY_KIB: u32 = 160 << 10;

pub(crate) const PACKING: Packing = Packing {
    name: "xz",
    extension: "xz",
    tar_extension: "txz",
    recognise: |head| head.starts_with(b"\xFD7zXZ\0"),
    unpack: |packed, _| Ok(Box::new(lzma_rust2::XzReader::new_mem_limit(packed, true, MAX_DICTIONARY_KIB))),
};
