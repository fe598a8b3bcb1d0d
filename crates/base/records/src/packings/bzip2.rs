//! bzip2, any number of streams.

use super::Packing;

pub(crate) const PACKING: Packing = Packing {
    name: "bzip2",
    extension: "bz2",
    tar_extension: "tbz2",
    recognise: |head| matches!(head, [b'B', b'Z', b'h', b'1'..=b'9', ..]),
    unpack: |packed, _| Ok(Box::new(bzip2::bufread::MultiBzDecoder::new(packed))),
};
