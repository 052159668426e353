//! Is a path canonical? A path that two readers could understand differently is refused, and never rewritten here.

/// Whether the path (without its query) has exactly one reading for routers, back ends that decode and back ends that
/// clean.
///
/// Canonical is: it begins with `/`; no empty segment but the last; no segment of dots alone; no `;`, `\`, control
/// character or byte outside ASCII; percent-encoding only where RFC 3986 needs it, never of an unreserved character, of
/// `/ \ ; ? # %`, of a control character, or of bytes that are not UTF-8.
pub fn is_canonical(path: &str) -> bool {
    let Some(rest) = path.strip_prefix('/') else { return false };
    if rest.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'/' | b'-' | b'_')) {
        return !path.contains("//");
    }
    let mut segments = rest.split('/').peekable();
    while let Some(segment) = segments.next() {
        let is_last = segments.peek().is_none();
        if segment.is_empty() && !is_last {
            return false;
        }
        let only_dots = !segment.is_empty() && segment.bytes().all(|byte| byte == b'.');
        if only_dots || !is_plain_segment(segment) {
            return false;
        }
    }
    true
}

/// `pchar` of RFC 3986 without `;`, percent-encoded only where that cannot change the meaning.
fn is_plain_segment(segment: &str) -> bool {
    let mut bytes = segment.bytes();
    // What an encoded run of non-ASCII bytes decodes to; it must be UTF-8, or an overlong `/` could hide in it.
    let mut decoded = Vec::new();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let (Some(high), Some(low)) = (bytes.next().and_then(hex), bytes.next().and_then(hex)) else {
                return false;
            };
            match high << 4 | low {
                code @ 0x80.. => decoded.push(code),
                code if !may_be_encoded(code) => return false,
                code => decoded.push(code),
            }
        } else if is_pchar(byte) {
            decoded.push(byte);
        } else {
            return false;
        }
    }
    std::str::from_utf8(&decoded).is_ok_and(|text| !text.chars().any(char::is_control))
}

/// A canonical path as a back end that decodes reads it.
pub fn decoded(path: &str) -> String {
    let mut bytes = path.bytes();
    let mut plain = Vec::with_capacity(path.len());
    while let Some(byte) = bytes.next() {
        let escaped = (byte == b'%').then(|| (bytes.next().and_then(hex), bytes.next().and_then(hex)));
        plain.push(match escaped {
            Some((Some(high), Some(low))) => high << 4 | low,
            _ => byte,
        });
    }
    String::from_utf8_lossy(&plain).into_owned()
}

fn hex(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

fn is_pchar(byte: u8) -> bool {
    is_unreserved(byte)
        || matches!(byte, b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b'=' | b':' | b'@')
}

fn may_be_encoded(code: u8) -> bool {
    let plain = is_unreserved(code);
    let separator = matches!(code, b'/' | b'\\' | b';' | b'?' | b'#' | b'%');
    !plain && !separator && matches!(code, 0x20..=0x7e)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canonical_paths() {
        for good in [
            "/",
            "/a",
            "/a/",
            "/v1/chat/completions",
            "/a.b/c-d_e~f",
            "/a/...b",
            "/models/x:generate",
            "/a%20b",
            "/%C3%A9",
            "/%c3%a9",
            "/user@host",
            "/a=b&c",
            "/inference.GRPCInferenceService/ModelInfer",
        ] {
            assert!(is_canonical(good), "{good}");
        }
    }

    #[test]
    fn paths_with_two_readings() {
        for bad in [
            "",
            "a",
            "*",
            "//",
            "//a",
            "/a//b",
            "/a//",
            "/.",
            "/..",
            "/a/./b",
            "/a/../b",
            "/a/...",
            "/a;x",
            "/a;/b",
            "/a\\b",
            "/%2e%2e/a",
            "/%2E",
            "/%41",
            "/a%2fb",
            "/a%2Fb",
            "/a%5cb",
            "/a%00b",
            "/a%0ab",
            "/a%7fb",
            "/a%25b",
            "/a%3bb",
            "/a%3fb",
            "/a%23b",
            "/a%",
            "/a%2",
            "/a%zz",
            "/%c0%af",
            "/%c3",
            "/%ff",
            "/é",
            "/a b",
            "/a#b",
            "/a\tb",
            "/a\u{0}b",
            "/<a>",
            "/a|b",
            "/%e2%80",
            "/%C2%85",
            "http://a/b",
        ] {
            assert!(!is_canonical(bad), "{bad:?}");
        }
    }

    /// What a back end that cleans would see: parameters cut, backslashes turned, empty and dot segments resolved.
    fn cleaned(path: &[u8]) -> Vec<Vec<u8>> {
        let mut segments: Vec<Vec<u8>> = Vec::new();
        for segment in path.split(|byte| matches!(byte, b'/' | b'\\')) {
            let segment = segment.split(|byte| *byte == b';').next().unwrap_or_default();
            match segment {
                b"" | b"." => {}
                b".." => drop(segments.pop()),
                other => segments.push(other.to_vec()),
            }
        }
        segments
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig::with_cases(20_000))]

        #[test]
        fn a_canonical_path_has_one_reading(
            parts in proptest::collection::vec(
                proptest::sample::select(vec![
                    "/", "a", "admin", ".", "..", "%2e", "%2E%2e", "%2f", "%5C", "\\", ";", ";x=1", "%3b", "%25", "%252e",
                    "%00", "%20", "%41", "%c3%a9", "%c0%ae", "%ef%bc%8f", "é", "+", ":", "%", "%2", "?", "#", "~", "//",
                ]),
                0..12,
            ),
        ) {
            let path = format!("/{}", parts.concat());
            if is_canonical(&path) {
                let once = decoded(&path);
                proptest::prop_assert_eq!(&decoded(&once), &once, "decodes twice: {}", path);
                let segments = path[1..].split('/').map(|segment| decoded(segment).into_bytes());
                let whole = segments.filter(|segment| !segment.is_empty()).collect::<Vec<_>>();
                proptest::prop_assert_eq!(&cleaned(once.as_bytes()), &whole, "cleans differently: {}", path);
                proptest::prop_assert_eq!(cleaned(path.as_bytes()).len(), whole.len());
            }
        }
    }
}
