//! What the first bytes of a picture or a recording say. Nothing is decoded.

/// What a file is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Header {
    /// Its media type, e.g. `image/png`.
    pub media_type: &'static str,
    /// Width and height of a picture, pixels.
    pub size: Option<(u32, u32)>,
    /// The length of a recording, where it is said.
    pub seconds: Option<f64>,
}

/// The kinds of files: how they begin, and what reads their header.
type Reader = fn(&[u8]) -> Option<Header>;

/// All kinds of files.
const ALL: &[Reader] = &[png, jpeg, gif, webp, bmp, wav, flac, ogg, mp3];

/// The header of a file; none of one that is of no known kind, or broken.
pub fn header(bytes: &[u8]) -> Option<Header> {
    ALL.iter().find_map(|read| read(bytes))
}

fn picture(media_type: &'static str, width: u32, height: u32) -> Option<Header> {
    (width > 0 && height > 0).then_some(Header { media_type, size: Some((width, height)), seconds: None })
}

fn recording(media_type: &'static str, seconds: Option<f64>) -> Header {
    Header { media_type, size: None, seconds: seconds.filter(|seconds| seconds.is_finite() && *seconds > 0.0) }
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

fn little32(bytes: &[u8], at: usize) -> Option<u32> {
    array(bytes, at).map(u32::from_le_bytes)
}

fn little16(bytes: &[u8], at: usize) -> Option<u32> {
    array(bytes, at).map(|word| u16::from_le_bytes(word).into())
}

fn big32(bytes: &[u8], at: usize) -> Option<u32> {
    array(bytes, at).map(u32::from_be_bytes)
}

fn big16(bytes: &[u8], at: usize) -> Option<u32> {
    array(bytes, at).map(|word| u16::from_be_bytes(word).into())
}

/// PNG (ISO 15948): the chunk `IHDR` comes first.
fn png(bytes: &[u8]) -> Option<Header> {
    let starts = bytes.starts_with(b"\x89PNG\r\n\x1a\n") && bytes.get(12..16) == Some(b"IHDR");
    starts.then(|| picture("image/png", big32(bytes, 16)?, big32(bytes, 20)?))?
}

/// JPEG (ITU T.81): segments until the one that begins the frame.
fn jpeg(bytes: &[u8]) -> Option<Header> {
    if !bytes.starts_with(b"\xFF\xD8") {
        return None;
    }
    let mut at = 2;
    loop {
        let [mark, kind] = array(bytes, at)?;
        match (mark, kind) {
            // Bytes between segments.
            (0xFF, 0xFF) => at += 1,
            // Neither Huffman tables, extensions nor arithmetic conditioning.
            (0xFF, 0xC0..=0xCF) if ![0xC4, 0xC8, 0xCC].contains(&kind) => {
                return picture("image/jpeg", big16(bytes, at + 7)?, big16(bytes, at + 5)?);
            }
            (0xFF, 0x01 | 0xD0..=0xD7) => at += 2,
            (0xFF, 0xD9 | 0xDA) => return None,
            (0xFF, _) => at += 2 + big16(bytes, at + 2)?.max(2) as usize,
            _ => return None,
        }
    }
}

fn gif(bytes: &[u8]) -> Option<Header> {
    let starts = bytes.starts_with(b"GIF87a") || bytes.starts_with(b"GIF89a");
    starts.then(|| picture("image/gif", little16(bytes, 6)?, little16(bytes, 8)?))?
}

/// WebP (RFC 9649): lossy, lossless, or with features.
fn webp(bytes: &[u8]) -> Option<Header> {
    if !(bytes.starts_with(b"RIFF") && bytes.get(8..12) == Some(b"WEBP")) {
        return None;
    }
    let three = |at: usize| array(bytes, at).map(|[a, b, c]: [u8; 3]| u32::from_le_bytes([a, b, c, 0]));
    let (width, height) = match bytes.get(12..16)? {
        b"VP8 " if bytes.get(23..26) == Some(b"\x9d\x01\x2a") => {
            (little16(bytes, 26)? & 0x3fff, little16(bytes, 28)? & 0x3fff)
        }
        b"VP8L" if bytes.get(20) == Some(&0x2f) => {
            let bits = little32(bytes, 21)?;
            ((bits & 0x3fff) + 1, (bits >> 14 & 0x3fff) + 1)
        }
        b"VP8X" => (three(24)? + 1, three(27)? + 1),
        _ => return None,
    };
    picture("image/webp", width, height)
}

/// BMP with the header of 40 bytes or a longer one; the height is negative where the first row is on top.
fn bmp(bytes: &[u8]) -> Option<Header> {
    if !bytes.starts_with(b"BM") || !(40..=124).contains(&little32(bytes, 14)?) {
        return None;
    }
    let [width, height] = [18, 22].map(|at| array(bytes, at).map(|word| i32::from_le_bytes(word).unsigned_abs()));
    picture("image/bmp", width?, height?)
}

/// WAV: the length of the samples by the bytes of a second.
fn wav(bytes: &[u8]) -> Option<Header> {
    if !(bytes.starts_with(b"RIFF") && bytes.get(8..12) == Some(b"WAVE")) {
        return None;
    }
    let (mut at, mut rate) = (12, None);
    loop {
        let (name, length) = (bytes.get(at..at + 4)?, little32(bytes, at + 4)? as usize);
        match name {
            b"fmt " => rate = little32(bytes, at + 16),
            b"data" => {
                let there = length.min(bytes.len().saturating_sub(at + 8));
                return Some(recording("audio/wav", Some(there as f64 / f64::from(rate?))));
            }
            _ => {}
        }
        // Chunks have an even length.
        at = at.checked_add(8)?.checked_add(length)?.checked_add(length % 2)?;
    }
}

/// FLAC (RFC 9639): the stream's description comes first.
fn flac(bytes: &[u8]) -> Option<Header> {
    if !(bytes.starts_with(b"fLaC") && bytes.get(4)? & 0x7f == 0) {
        return None;
    }
    // 20 bits sample rate, 3 channels, 5 depth, 36 samples.
    let bits: u64 = array(bytes, 18).map(u64::from_be_bytes)?;
    let (rate, samples) = (bits >> 44, bits & ((1 << 36) - 1));
    (rate > 0).then(|| recording("audio/flac", Some(samples as f64 / rate as f64)))
}

/// Ogg (RFC 3533) with Vorbis or Opus: the last page says how many samples there are.
fn ogg(bytes: &[u8]) -> Option<Header> {
    if !bytes.starts_with(b"OggS") {
        return None;
    }
    let first = 27 + usize::from(*bytes.get(26)?);
    let (rate, skipped) = match bytes.get(first..)? {
        packet if packet.starts_with(b"\x01vorbis") => (little32(packet, 12)?, 0),
        // Opus counts at 48 kHz whatever it was made of (RFC 7845).
        packet if packet.starts_with(b"OpusHead") => (48_000, little16(packet, 10)?),
        _ => return None,
    };
    let last = (0..bytes.len().saturating_sub(3)).rev().find(|at| bytes[*at..].starts_with(b"OggS"))?;
    let samples = array(bytes, last + 6).map(i64::from_le_bytes).unwrap_or(0) - i64::from(skipped);
    (rate > 0).then(|| recording("audio/ogg", Some(samples as f64 / f64::from(rate))))
}

/// Kilobits per second of MPEG 1 layer III, and of MPEG 2 and 2.5, by the frame header's four bits.
const BIT_RATES: [[u32; 16]; 2] = [
    [0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 0],
    [0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160, 0],
];

/// MP3 (ISO 11172-3 layer III): the number of frames where it is said, else the length at the first frame's rate.
fn mp3(bytes: &[u8]) -> Option<Header> {
    let tag = match bytes.starts_with(b"ID3") {
        // Seven bits of each byte.
        true => 10 + array::<4>(bytes, 6)?.iter().fold(0, |size, byte: &u8| size << 7 | usize::from(byte & 0x7f)),
        false => 0,
    };
    let [first, version, rates, mode] = array(bytes, tag)?;
    // Eleven bits of ones, layer III.
    if first != 0xFF || version & 0xE6 != 0xE2 {
        return None;
    }
    let (number, mono) = (version >> 3 & 3, mode >> 6 == 3);
    let divisor = match number {
        3 => 1,
        2 => 2,
        0 => 4,
        _ => return None,
    };
    let rate = [44_100, 48_000, 32_000].get(usize::from(rates >> 2 & 3))? / divisor;
    let kilobits = BIT_RATES[usize::from(divisor > 1)][usize::from(rates >> 4)];
    if kilobits == 0 {
        return None;
    }
    let (samples, side) = match (divisor, mono) {
        (1, false) => (1152, 32),
        (1, true) => (1152, 17),
        (_, false) => (576, 17),
        (_, true) => (576, 9),
    };
    let described = tag + 4 + side;
    let counts = bytes.get(described..described + 4).is_some_and(|name| name == b"Xing" || name == b"Info")
        && big32(bytes, described + 4)? & 1 == 1;
    let seconds = match counts {
        true => f64::from(big32(bytes, described + 8)?) * f64::from(samples) / f64::from(rate),
        false => (bytes.len() - tag) as f64 / (125.0 * f64::from(kilobits)),
    };
    Some(recording("audio/mpeg", Some(seconds)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn riff(kind: &[u8], chunks: &[(&[u8; 4], Vec<u8>)]) -> Vec<u8> {
        let mut bytes = [b"RIFF", &[0; 4], kind].concat();
        for (name, data) in chunks {
            bytes.extend(*name);
            bytes.extend((data.len() as u32).to_le_bytes());
            bytes.extend(data);
            bytes.resize(bytes.len() + data.len() % 2, 0);
        }
        bytes
    }

    /// A file of each kind, by the book.
    fn files() -> Vec<(Vec<u8>, Header)> {
        let image = |media_type, width, height| Header { media_type, size: Some((width, height)), seconds: None };
        let sound = |media_type, seconds| Header { media_type, size: None, seconds: Some(seconds) };
        let png =
            [b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR".as_slice(), &[0, 0, 2, 128, 0, 0, 1, 224, 8, 2, 0, 0, 0]].concat();
        let jpeg = [
            b"\xFF\xD8\xFF\xE0\0\x04ab\xFF\xFF\xC4\0\x03x\xFF\xC2\0\x11\x08".as_slice(),
            &[1, 224, 2, 128, 3, 1, 0x22, 0, 2, 0x11, 1, 3, 0x11, 1],
        ]
        .concat();
        let vp8 = [&[0; 3], b"\x9d\x01\x2a".as_slice(), &[128, 2, 224, 1, 0]].concat();
        let lossless = [&[0x2f], ((639_u32) | 479 << 14).to_le_bytes().as_slice(), &[0; 4]].concat();
        let features = [0, 0, 0, 0, 127, 2, 0, 223, 1, 0].to_vec();
        let mut bmp = [b"BM".as_slice(), &[0; 12], &[40, 0, 0, 0, 128, 2, 0, 0]].concat();
        bmp.extend((-480_i32).to_le_bytes());
        let format = [[1, 0, 1, 0, 0x40, 0x1f, 0, 0].as_slice(), &8000_u32.to_le_bytes(), &[1, 0, 8, 0]].concat();
        let wav = riff(b"WAVE", &[(b"LIST", vec![0; 3]), (b"fmt ", format), (b"data", vec![128; 12_000])]);
        let bits: u64 = 44_100 << 44 | 7 << 36 | 88_200;
        let flac = [b"fLaC\x80\0\0\x22".as_slice(), &[0; 10], &bits.to_be_bytes(), &[0; 16]].concat();
        let page = |granule: i64, packet: &[u8]| {
            let mut page =
                [b"OggS\0\0".as_slice(), &granule.to_le_bytes(), &[0; 12], &[1, packet.len() as u8]].concat();
            page.extend(packet);
            page
        };
        let opus = [b"OpusHead\x01\x02".as_slice(), &312_u16.to_le_bytes(), &[0; 7]].concat();
        let opus = [page(0, &opus), page(96_312, b"x")].concat();
        let vorbis = [b"\x01vorbis".as_slice(), &[0; 4], &[1], &22_050_u32.to_le_bytes(), &[0; 14]].concat();
        let vorbis = [page(0, &vorbis), page(11_025, b"x")].concat();
        // 128 kbit/s at 44.1 kHz, stereo.
        let steady =
            [b"ID3\x04\0\0\0\0\x01\0".as_slice(), &[0; 128], &[0xFF, 0xFB, 0x90, 0], &vec![0; 31_996]].concat();
        let mut told = [[0xFF, 0xFB, 0x90, 0].as_slice(), &[0; 32], b"Xing\0\0\0\x01"].concat();
        told.extend(1000_u32.to_be_bytes());
        vec![
            (png, image("image/png", 640, 480)),
            (jpeg, image("image/jpeg", 640, 480)),
            (b"GIF89a\x80\x02\xe0\x01rest".to_vec(), image("image/gif", 640, 480)),
            (riff(b"WEBP", &[(b"VP8 ", vp8)]), image("image/webp", 640, 480)),
            (riff(b"WEBP", &[(b"VP8L", lossless)]), image("image/webp", 640, 480)),
            (riff(b"WEBP", &[(b"VP8X", features)]), image("image/webp", 640, 480)),
            (bmp, image("image/bmp", 640, 480)),
            (wav, sound("audio/wav", 1.5)),
            (flac, sound("audio/flac", 2.0)),
            (opus, sound("audio/ogg", 2.0)),
            (vorbis, sound("audio/ogg", 0.5)),
            (steady, sound("audio/mpeg", 2.0)),
            (told, sound("audio/mpeg", 1000.0 * 1152.0 / 44_100.0)),
        ]
    }

    #[test]
    fn headers_say_what_a_file_is() {
        for (bytes, want) in files() {
            assert_eq!(header(&bytes), Some(want));
        }
        for other in [b"".as_slice(), b"text", b"RIFF", b"\xFF\xD8\xFF\xD9", b"%PDF-1.4"] {
            assert_eq!(header(other), None);
        }
    }

    #[test]
    fn cut_and_damaged_files_are_broken_or_something_else() {
        for (bytes, _) in files() {
            for cut in 0..bytes.len().min(300) {
                let _ = header(&bytes[..cut]);
                for change in [0xFF, 1] {
                    let mut damaged = bytes.clone();
                    damaged[cut] ^= change;
                    let _ = header(&damaged);
                }
            }
            assert_eq!(header(&bytes[..3]), None);
        }
    }
}
