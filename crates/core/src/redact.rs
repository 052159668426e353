//! What looks like a secret in text that a client chose, and that text without it: for log lines and metadata. Never keeps a
//! part of what it takes for a secret.

use std::borrow::Cow;

use crate::bytes::every;
use crate::credential::ID_LEN;
use crate::path::decoded;
use crate::plane::Plane;

/// No registered method is longer.
const MAX_METHOD: usize = 17;

/// Stands for what was taken out.
const GONE: &str = "…";

/// No more than so many bytes of a path are shown.
const MAX_SHOWN: usize = 256;

/// So many letters and digits in a row are no word: the secret of a key, a digest, a part of a token.
const LONG_RUN: usize = 40;

/// Of the secret of a key, so much is enough to know it for one that was cut.
const CUT_SECRET: usize = 8;

/// How often something may have been percent-encoded.
const ROUNDS: usize = 3;

/// Names before a `:` that say what follows.
const SECRETS: [&str; 6] = ["password", "passwd", "pwd", "secret", "token", "apikey"];

/// Whether a request target holds one of our keys, whole or cut, plain or percent-encoded. Costs nothing where it is too short.
pub fn holds_key(planes: &[Plane], target: &str) -> bool {
    let can = |text: &str| text.len() > ID_LEN + CUT_SECRET + 2 && text.contains('_');
    if target.len() <= ID_LEN + CUT_SECRET + 2 {
        return false;
    }
    if !target.contains('%') {
        return can(target) && is_key_in(planes, target);
    }
    every_reading(target, |text| can(text) && is_key_in(planes, text))
}

/// A path as it may be shown: without the segments that look like a secret, and without parameters.
pub fn path<'p>(planes: &[Plane], path: &'p str) -> Cow<'p, str> {
    if path.len() <= MAX_SHOWN && path.split('/').all(|segment| shown(planes, segment) == segment) {
        return Cow::Borrowed(path);
    }
    let mut whole = String::with_capacity(MAX_SHOWN);
    for (at, segment) in path.split('/').enumerate() {
        let segment = shown(planes, segment);
        if whole.len() + segment.len() >= MAX_SHOWN {
            whole.push_str(GONE);
            break;
        }
        if at > 0 {
            whole.push('/');
        }
        whole.push_str(&segment);
    }
    Cow::Owned(whole)
}

/// Any other text of a client, as a whole or not at all.
pub fn text<'t>(planes: &[Plane], text: &'t str) -> &'t str {
    if is_word(text) {
        return text;
    }
    if text.len() > MAX_SHOWN || is_secret(planes, text) { GONE } else { text }
}

/// What a client sent, as the answer that it is wrong may repeat it. Keys are known by their shape, whatever their prefix.
pub fn echo(sent: &str) -> &str {
    text(&[], sent)
}

/// A sentence of ours that may hold names of a client: without the words that look like a secret. A name may be an address here.
pub fn sentence(text: &str) -> Cow<'_, str> {
    let is_gone = |word: &str| {
        let word = word.trim_end_matches([' ', ':']);
        !is_word(word) && is_secret(&[], &word.replace('@', "-"))
    };
    if !text.split_inclusive(' ').any(is_gone) {
        return Cow::Borrowed(text);
    }
    let shown = text.split_inclusive(' ').map(|word| match word {
        word if !is_gone(word) => word,
        word if word.ends_with(' ') => "… ",
        _ => GONE,
    });
    Cow::Owned(shown.collect())
}

/// A method, if it reads like one: HTTP/2 carries any word.
pub fn method(method: &str) -> &str {
    let plain = method.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'-');
    if plain && method.len() <= MAX_METHOD { method } else { GONE }
}

/// What a change was to be made to, such as `user:NAME` or `user NAME`. A name may be an address here.
pub fn target(target: &str) -> Cow<'_, str> {
    let (kind, name) = target.split_at(target.find([':', ' ']).map_or(0, |end| end + 1));
    if is_secret(&[], &name.replace('@', "-")) { Cow::Owned(format!("{kind}{GONE}")) } else { Cow::Borrowed(target) }
}

/// The same for whoever asked: an address is left out, too.
pub fn name(what: &str) -> Cow<'_, str> {
    let kind = what.find([':', ' ']).map_or("", |end| &what[..=end]);
    if what.contains('@') { Cow::Owned(format!("{kind}{GONE}")) } else { target(what) }
}

/// One segment, with what may be shown of it.
fn shown<'s>(planes: &[Plane], segment: &'s str) -> Cow<'s, str> {
    if is_word(segment) {
        return Cow::Borrowed(segment);
    }
    if is_secret(planes, segment) {
        return Cow::Borrowed(GONE);
    }
    match segment.find([';', '=', '&']) {
        Some(end) => Cow::Owned(format!("{}{GONE}", &segment[..end])),
        None => Cow::Borrowed(segment),
    }
}

/// Whether this is no more than a short word or a UUID, as most segments and names are: no secret is like that.
fn is_word(text: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let uuid = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f' | b'-');
    text.len() < LONG_RUN && (every(text.as_bytes(), word) || every(text.as_bytes(), uuid))
}

fn is_secret(planes: &[Plane], text: &str) -> bool {
    every_reading(text, |text| looks_secret(planes, text))
        // What hides its parameters hides their values.
        || (text.contains('%') && every_reading(text, |text| !text.contains('%') && text.contains([';', '='])))
}

/// Whether this is true of the text, or of what it decodes to.
fn every_reading(text: &str, is_so: impl Fn(&str) -> bool) -> bool {
    let mut text = Cow::Borrowed(text);
    for _ in 0..ROUNDS {
        if is_so(&text) {
            return true;
        }
        if !text.contains('%') {
            return false;
        }
        text = Cow::Owned(decoded(&text));
    }
    is_so(&text)
}

fn looks_secret(planes: &[Plane], text: &str) -> bool {
    if text.contains(['@', '＠']) || is_key_in(planes, text) {
        return true;
    }
    let bytes = text.as_bytes();
    let mut run = 0;
    for (at, byte) in bytes.iter().enumerate() {
        let begins_word = run == 0;
        run = if byte.is_ascii_alphanumeric() { run + 1 } else { 0 };
        if run >= LONG_RUN {
            return true;
        }
        let rest = &bytes[at..];
        let begins =
            |with: &str| rest.get(..with.len()).is_some_and(|start| start.eq_ignore_ascii_case(with.as_bytes()));
        let of_a_plane = |plane: &Plane| begins(&plane.prefix) && rest.get(plane.prefix.len()) == Some(&b'_');
        if begins_word && (begins("sk-") || begins("eyj") || planes.iter().any(of_a_plane)) {
            return true;
        }
    }
    let says_secret = |(name, _): (&str, &str)| {
        let name = name.to_ascii_lowercase();
        SECRETS.iter().any(|secret| name.ends_with(secret))
    };
    text.split_once(':').is_some_and(says_secret)
}

/// Whether a key stands anywhere in the text: its id, and some of its secret. Without planes, of whichever prefix.
fn is_key_in(planes: &[Plane], text: &str) -> bool {
    let bytes = text.as_bytes();
    let plain = |part: Option<&[u8]>| part.is_some_and(|part| part.iter().all(u8::is_ascii_alphanumeric));
    bytes.iter().enumerate().filter(|(_, byte)| **byte == b'_').any(|(at, _)| {
        let id = at + 1;
        let secret = id + ID_LEN + 1;
        let before = &bytes[..at];
        let ends = |prefix: &str| {
            let start = before.len().checked_sub(prefix.len());
            start.is_some_and(|start| before[start..].eq_ignore_ascii_case(prefix.as_bytes()))
        };
        bytes.get(secret - 1) == Some(&b'_')
            && plain(bytes.get(id..secret - 1))
            && plain(bytes.get(secret..secret + CUT_SECRET))
            && (planes.is_empty() || planes.iter().any(|plane| ends(&plane.prefix)))
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::plane::RevokedStatus;

    fn planes() -> Vec<Plane> {
        let plane = |prefix: &str| Plane {
            name: prefix.into(),
            prefix: prefix.into(),
            revoked: RevokedStatus::Unauthenticated,
            admin: false,
            grace: Duration::ZERO,
        };
        vec![plane("ik_live"), plane("k")]
    }

    const KEY: &str = "ik_live_4fK2mZ81QxYb_abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQ012345";

    #[test]
    fn keys_in_a_target_are_found_in_every_reading() {
        for target in [
            format!("/v1/{KEY}"),
            format!("/v1?key={KEY}"),
            format!("/v1?a=b&x={}", &KEY[..32]),
            format!("/v1?key={}", KEY.replace('_', "%5F")),
            format!("/v1?key={}", KEY.replace('_', "%255f")),
            format!("/v1/x{}", KEY.to_uppercase()),
            format!("/v1/{KEY}/{}", "x".repeat(5_000)),
        ] {
            assert!(holds_key(&planes(), &target), "{target}");
        }
        for target in
            ["/", "/v1/chat/completions", "/endpoint/acme/a_b_c/run_it?with_some_long_name_in_it=and_more_of_it"]
        {
            assert!(!holds_key(&planes(), target), "{target}");
        }
        assert!(!holds_key(&planes(), &format!("/v1/{}", KEY.replace("ik_live", "other"))));
    }

    #[test]
    fn a_path_is_shown_without_what_looks_like_a_secret() {
        let jwt = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln";
        for secret in [
            KEY,
            &KEY[..20],
            "ik_live_x",
            "k_x",
            jwt,
            &jwt[..15],
            "sk-proj-1234",
            "SK-1234",
            "a@b.example",
            "a%40b.example",
            "a%2540b.example",
            "password:hunter2",
            "user-token:hunter2",
            "x%3Bpassword%3Dhunter2",
            &"0a".repeat(20),
        ] {
            assert_eq!(path(&planes(), &format!("/v1/{secret}/x")), "/v1/…/x", "{secret}");
            assert_eq!(text(&planes(), secret), "…");
        }
        for (given, said) in [
            ("/login;password=hunter2/x", "/login…/x"),
            ("/a=b&password=hunter2", "/a…"),
            ("/v1/chat/completions", "/v1/chat/completions"),
            ("/v1/models/llama-3-8b:generate", "/v1/models/llama-3-8b:generate"),
            (
                "/task-1/desk-2/a_b/%20x/3f0c1d9a-6a39-4e6f-9a57-8d1f0a1b2c3d",
                "/task-1/desk-2/a_b/%20x/3f0c1d9a-6a39-4e6f-9a57-8d1f0a1b2c3d",
            ),
            ("", ""),
        ] {
            assert_eq!(path(&planes(), given), said);
        }
        let long = format!("/{}/{KEY}", "ab/".repeat(100));
        let shown = path(&planes(), &long);
        assert!(shown.len() < 270 && shown.ends_with('…'), "{shown}");
    }

    #[test]
    fn a_sentence_is_told_without_its_secrets() {
        let cut = &KEY[..40];
        for (given, said) in [
            (&*format!("you do not reach project {cut}"), "you do not reach project …"),
            (&*format!("`{cut}` is not a plane; there are: data"), "… is not a plane; there are: data"),
            ("there is no project sk-proj-1: name another", "there is no project … name another"),
            ("password: must have 12 to 256 characters", "password: must have 12 to 256 characters"),
            ("user acme/ann@example.com exists", "user acme/ann@example.com exists"),
            ("", ""),
        ] {
            assert_eq!(sentence(given), said);
        }
    }

    #[test]
    fn what_a_change_is_about_may_be_an_address() {
        for (given, said) in [
            ("user:alice@example.com", "user:alice@example.com"),
            ("user:sk-proj-1", "user:…"),
            (&*format!("key:{KEY}"), "key:…"),
            ("key:4fK2mZ81QxYb", "key:4fK2mZ81QxYb"),
            ("fleet", "fleet"),
        ] {
            assert_eq!(target(given), said);
        }
    }
}
