//! Public keys that must not verify anything, because whoever knows the key can sign with it, or nearly so. Pure arithmetic on
//! the bytes of a key: it never asks what the key is for.

/// Bits of an RSA modulus. Shorter ones can be factored; longer ones cost a check too much.
const MODULUS_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;
/// Bits of a public exponent, at most.
const EXPONENT_BITS: usize = 33;

/// The y-coordinates of the Ed25519 points whose order divides 8, little endian and without the sign of x; the last two are
/// 0 and 1 again, written without reducing them (RFC 8032 section 5.1.3 has those refused, some libraries take them).
const SMALL_ORDER: [[u8; 32]; 7] = [
    edge(0, 0, 0),
    edge(1, 0, 0),
    [
        0x26, 0xe8, 0x95, 0x8f, 0xc2, 0xb2, 0x27, 0xb0, 0x45, 0xc3, 0xf4, 0x89, 0xf2, 0xef, 0x98, 0xf0, 0xd5, 0xdf,
        0xac, 0x05, 0xd3, 0xc6, 0x33, 0x39, 0xb1, 0x38, 0x02, 0x88, 0x6d, 0x53, 0xfc, 0x05,
    ],
    [
        0xc7, 0x17, 0x6a, 0x70, 0x3d, 0x4d, 0xd8, 0x4f, 0xba, 0x3c, 0x0b, 0x76, 0x0d, 0x10, 0x67, 0x0f, 0x2a, 0x20,
        0x53, 0xfa, 0x2c, 0x39, 0xcc, 0xc6, 0x4e, 0xc7, 0xfd, 0x77, 0x92, 0xac, 0x03, 0x7a,
    ],
    edge(0xec, 0xff, 0x7f),
    edge(0xed, 0xff, 0x7f),
    edge(0xee, 0xff, 0x7f),
];

/// What the vulnerable library (CVE-2017-15361, "ROCA") made its primes of: modulo each of these, such a modulus is a power of
/// [`ROCA_GENERATOR`]. A sound modulus is so for all of them by chance once in a hundred million times.
const ROCA_PRIMES: [u32; 38] = [
    3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71, 73, 79, 83, 89, 97, 101, 103, 107, 109,
    113, 127, 131, 137, 139, 149, 151, 157, 163, 167,
];
const ROCA_GENERATOR: u32 = 65537;

const fn edge(first: u8, middle: u8, last: u8) -> [u8; 32] {
    let mut bytes = [middle; 32];
    bytes[0] = first;
    bytes[31] = last;
    bytes
}

/// Why this Ed25519 public key is refused, if it is: under one of small order, signatures can be made without any secret.
pub fn ed25519(public: &[u8]) -> Option<&'static str> {
    let mut y = <[u8; 32]>::try_from(public).ok()?;
    y[31] &= 0x7f;
    SMALL_ORDER.contains(&y).then_some("it is a point of small order, for which anybody can sign")
}

/// Why this RSA public key is refused, if it is; numbers are big endian and without leading zeros.
pub fn rsa(modulus: &[u8], exponent: &[u8]) -> Option<&'static str> {
    let is_odd = |number: &[u8]| number.last().is_some_and(|last| last % 2 == 1);
    if !MODULUS_BITS.contains(&bits(modulus)) {
        Some("its modulus has fewer than 2048 or more than 8192 bits")
    } else if !is_odd(modulus) {
        Some("its modulus is even")
    } else if !is_odd(exponent) || exponent == [1] || bits(exponent) > EXPONENT_BITS {
        Some("its public exponent is even, below 3, or longer than 33 bits")
    } else if has_roca_fingerprint(modulus) {
        Some("its modulus was made by a library whose keys can be factored (ROCA, CVE-2017-15361)")
    } else {
        None
    }
}

fn bits(number: &[u8]) -> usize {
    let unused = number.first().map_or(0, |first| first.leading_zeros() as usize);
    number.len() * 8 - unused
}

fn has_roca_fingerprint(modulus: &[u8]) -> bool {
    ROCA_PRIMES.iter().all(|prime| {
        let residue = modulus.iter().fold(0, |rest, byte| (rest * 256 + u32::from(*byte)) % prime);
        let generator = ROCA_GENERATOR % prime;
        let powers = std::iter::successors(Some(1), |power| Some(power * generator % prime));
        powers.take(*prime as usize).any(|power| power == residue)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 65537 to this power, big endian.
    fn power(of: u32) -> Vec<u8> {
        let mut digits = vec![1u8];
        for _ in 0..of {
            // n * 65537 = n * 65536 + n.
            let mut shifted = vec![0, 0];
            shifted.extend_from_slice(&digits);
            let mut carry = 0;
            for (at, digit) in shifted.iter_mut().enumerate() {
                let sum = u16::from(*digit) + u16::from(digits.get(at).copied().unwrap_or(0)) + carry;
                *digit = sum as u8;
                carry = sum >> 8;
            }
            if carry > 0 {
                shifted.push(carry as u8);
            }
            digits = shifted;
        }
        digits.reverse();
        digits
    }

    #[test]
    fn keys_of_small_order_are_refused_however_they_are_written() {
        for mut key in SMALL_ORDER {
            assert!(ed25519(&key).is_some(), "{key:02x?}");
            key[31] |= 0x80;
            assert!(ed25519(&key).is_some(), "{key:02x?}");
            key[31] ^= 1;
            assert_eq!(ed25519(&key), None, "{key:02x?}");
        }
        // The point that signatures are made with (RFC 8032 section 5.1): y is 4/5.
        let mut base = [0x66; 32];
        base[0] = 0x58;
        assert_eq!(ed25519(&base), None);
    }

    #[test]
    fn rsa_keys_are_bounded_and_not_of_the_vulnerable_library() {
        // Odd, of so many bits, and not a power of the generator modulo 11, or modulo 13.
        let modulus = |bits: usize| {
            let mut bytes = vec![0x5a; bits.div_ceil(8)];
            bytes[0] = 1 << ((bits - 1) % 8);
            *bytes.last_mut().unwrap() = 0x5b;
            bytes
        };
        let good = modulus(2048);
        for (bits, is_good) in [(512, false), (1024, false), (2047, false), (2048, true), (3072, true), (4096, true)]
            .into_iter()
            .chain([(8191, true), (8192, true), (8193, false), (16384, false)])
        {
            assert_eq!(rsa(&modulus(bits), &[1, 0, 1]).is_none(), is_good, "{bits} bits");
        }
        let even = [&good[..255], &[0x5a]].concat();
        assert!(rsa(&even, &[1, 0, 1]).is_some());
        for (exponent, is_good) in [
            (&[][..], false),
            (&[1], false),
            (&[2], false),
            (&[3], true),
            (&[4], false),
            (&[17], true),
            (&[1, 0, 0], false),
            (&[1, 0, 1], true),
            (&[1, 255, 255, 255, 255], true),
            (&[2, 0, 0, 0, 1], false),
            (&[1, 0, 0, 0, 0, 1], false),
        ] {
            assert_eq!(rsa(&good, exponent).is_none(), is_good, "{exponent:?}");
        }
        for exponent in [128, 192, 255] {
            assert!(rsa(&power(exponent), &[1, 0, 1]).is_some_and(|reason| reason.contains("ROCA")), "{exponent}");
        }
        let mut near = power(128);
        *near.last_mut().unwrap() ^= 2;
        assert_eq!(rsa(&near, &[1, 0, 1]), None, "one bit beside");
    }
}
