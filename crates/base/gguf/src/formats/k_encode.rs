//! Encoders of the K formats. Which numbers a block holds is free; these are found by least squares: for some ranges of a
//! group, the numbers are rounded, scale and least value fitted to what they became, and the best fit is kept; when the
//! scales themselves have been rounded, their neighbours are tried too.

use super::{extreme, half_at, inverse, pack, put_half};

/// Ranges that are tried for a group, in tenths of a level beyond its largest value.
const RANGES: std::ops::RangeInclusive<i8> = -12..=12;
/// What six bits hold.
const MOST_CODE: f32 = 63.0;

pub fn q4_k(values: &[f32], out: &mut [u8]) {
    pack(values, out, |x: &[f32; 256], b: &mut [u8; 144]| {
        let q = affine_block(x, 15.0, &mut b[..16]);
        put_low_bits(&q, &mut b[16..]);
    });
}

pub fn q5_k(values: &[f32], out: &mut [u8]) {
    pack(values, out, |x: &[f32; 256], b: &mut [u8; 176]| {
        let q = affine_block(x, 31.0, &mut b[..16]);
        (0..256).for_each(|i| b[16 + i % 32] |= (q[i] >> 4) << (i / 32));
        put_low_bits(&q, &mut b[48..]);
    });
}

pub fn q6_k(values: &[f32], out: &mut [u8]) {
    pack(values, out, |x: &[f32; 256], b: &mut [u8; 210]| {
        let groups = x.as_chunks::<16>().0;
        let scales: Vec<f32> = groups.iter().map(scale_of).collect();
        put_half(b, 208, extreme(&scales) / -128.0);
        let d = half_at(b, 208);
        for (group, x) in groups.iter().enumerate() {
            let code = (scales[group] * inverse(d)).round().clamp(-128.0, 127.0);
            let near = [code, code - 1.0, code + 1.0].map(|c| c.clamp(-128.0, 127.0));
            let code = least_by(near, |c| squares(x, |v| d * c * signed(v, inverse(d * c))));
            b[192 + group] = (code as i8).cast_unsigned();
            let (half, k, within) = (group / 8, group % 8 / 2, 16 * (group % 2));
            for (l, v) in x.iter().enumerate() {
                let q = (signed(*v, inverse(d * code)) + 32.0) as u8;
                b[64 * half + 32 * (k % 2) + within + l] |= (q & 15) << (4 * (k / 2));
                b[128 + 32 * half + within + l] |= (q >> 4) << (2 * k);
            }
        }
    });
}

/// A whole number from -32 to 31.
fn signed(x: f32, inverse_scale: f32) -> f32 {
    (x * inverse_scale).round().clamp(-32.0, 31.0)
}

/// The scale of sixteen numbers that six bits with sign store.
fn scale_of(x: &[f32; 16]) -> f32 {
    let most = extreme(x);
    let fitted = RANGES.map(|tenths| {
        let id = inverse(most) * (f32::from(tenths) * 0.1 - 32.0);
        let (mut qx, mut qq) = (0.0, 0.0);
        for v in x {
            let q = signed(*v, id);
            qx += q * v;
            qq += q * q;
        }
        qx * inverse(qq)
    });
    least_by(fitted, |scale| squares(x, |v| scale * signed(v, inverse(scale))))
}

/// Writes scales and least values of eight groups of 32, and gives the numbers from 0 to `levels`.
fn affine_block(x: &[f32; 256], levels: f32, head: &mut [u8]) -> [u8; 256] {
    let groups = x.as_chunks::<32>().0;
    let fits: Vec<(f32, f32)> = groups.iter().map(|x| affine(x, levels)).collect();
    let most = |part: fn(&(f32, f32)) -> f32| fits.iter().map(part).fold(0.0, f32::max);
    put_half(head, 0, most(|fit| fit.0) / MOST_CODE);
    put_half(head, 2, most(|fit| fit.1) / MOST_CODE);
    let (d, d_least) = (half_at(head, 0), half_at(head, 2));
    let mut q = [0; 256];
    for (group, (x, (scale, least))) in groups.iter().zip(fits).enumerate() {
        let near = |value: f32, unit: f32| {
            let code = (value * inverse(unit)).round();
            [code, code - 1.0, code + 1.0].map(|c| c.clamp(0.0, MOST_CODE))
        };
        let pairs = near(scale, d).into_iter().flat_map(|s| near(least, d_least).map(|m| (s, m)));
        let (scale, least) = least_by(pairs, |(s, m)| {
            let (scale, least) = (d * s, d_least * m);
            squares(x, |v| scale * level(v, inverse(scale), least, levels) - least)
        });
        put_codes(&mut head[4..16], group, scale as u8, least as u8);
        let (id, least) = (inverse(d * scale), d_least * least);
        q[32 * group..][..32].iter_mut().zip(x).for_each(|(q, v)| *q = level(*v, id, least, levels) as u8);
    }
    q
}

/// A whole number from 0 to `levels`.
fn level(x: f32, inverse_scale: f32, least: f32, levels: f32) -> f32 {
    ((x + least) * inverse_scale).round().clamp(0.0, levels)
}

/// Scale and least value of a group, neither of them negative: x is about scale * q - least.
fn affine(x: &[f32; 32], levels: f32) -> (f32, f32) {
    let low = x.iter().copied().fold(0.0, f32::min);
    let high = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let fitted = RANGES.map(|tenths| {
        let id = inverse(high - low) * (levels + f32::from(tenths) * 0.1);
        line(x, |v| level(v, id, -low, levels))
    });
    let refined = fitted.map(|(scale, least)| line(x, |v| level(v, inverse(scale), least, levels)));
    least_by(refined, |(scale, least)| squares(x, |v| scale * level(v, inverse(scale), least, levels) - least))
}

/// The line scale * q - least through (q, x) that errs least.
fn line(x: &[f32; 32], q: impl Fn(f32) -> f32) -> (f32, f32) {
    let (mut sum_q, mut sum_x, mut qq, mut qx) = (0.0, 0.0, 0.0, 0.0);
    for v in x {
        let q = q(*v);
        sum_q += q;
        sum_x += v;
        qq += q * q;
        qx += q * v;
    }
    let n = x.len() as f32;
    let scale = (n * qx - sum_q * sum_x) * inverse(n * qq - sum_q * sum_q);
    let least = (scale * sum_q - sum_x) / n;
    if least >= 0.0 && scale >= 0.0 { (scale, least) } else { ((qx * inverse(qq)).max(0.0), 0.0) }
}

/// The sum of squared errors.
fn squares<const N: usize>(x: &[f32; N], stored: impl Fn(f32) -> f32) -> f32 {
    x.iter().map(|v| (stored(*v) - v) * (stored(*v) - v)).sum()
}

/// The first candidate of the least error; zeros where none has an error that is a number.
fn least_by<T: Copy + Default>(candidates: impl IntoIterator<Item = T>, error: impl Fn(T) -> f32) -> T {
    let mut best = (f32::INFINITY, T::default());
    for candidate in candidates {
        let error = error(candidate);
        if error < best.0 {
            best = (error, candidate);
        }
    }
    best.1
}

/// Four bits of each of 256 numbers: those of two groups of 32 in the halves of 32 bytes.
fn put_low_bits(q: &[u8; 256], out: &mut [u8]) {
    (0..256).for_each(|i| out[32 * (i / 64) + i % 32] |= (q[i] & 15) << (4 * (i / 32 % 2)));
}

/// Six-bit codes of a group, as `scale_and_least` reads them.
fn put_codes(packed: &mut [u8], group: usize, scale: u8, least: u8) {
    if group < 4 {
        packed[group] |= scale;
        packed[group + 4] |= least;
    } else {
        packed[group + 4] |= (scale & 15) | (least & 15) << 4;
        packed[group - 4] |= (scale >> 4) << 6;
        packed[group] |= (least >> 4) << 6;
    }
}
