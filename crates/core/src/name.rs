//! The grammar of names that end up in records, paths and headers. Never rewrites a name: it fits or it does not.

/// The longest name, in bytes.
pub const MAX_NAME: usize = 64;

/// What a person is told when a name does not fit.
pub const NAME_RULE: &str = "1 to 64 characters of A-Z a-z 0-9 . _ - and must begin with a letter or a digit";

/// A project, workload, resource id or permission: `[A-Za-z0-9][A-Za-z0-9._-]{0,63}`.
///
/// The wildcard `*`, percent signs, slashes and everything that is not a header value are outside the grammar, so a
/// path segment that is a name needs no decoding and can be compared byte by byte.
pub fn is_name(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.len() <= MAX_NAME
        && bytes.first().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

/// The name that a user logs in with: `[A-Za-z0-9][A-Za-z0-9._@+-]{0,63}`, so that an e-mail address fits. Names are compared
/// byte by byte.
pub fn is_user_name(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.len() <= MAX_NAME
        && bytes.first().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'@' | b'+' | b'-'))
}

/// What a user logs in with: the [name](is_user_name) alone, or behind the user's project and a slash, which neither of them holds.
pub fn is_login_name(text: &str) -> bool {
    match split_login_name(text) {
        (Some(project), name) => is_name(project) && is_user_name(name),
        (None, name) => is_user_name(name),
    }
}

/// The project that a login name says, if it says one, and the name of the user in it.
pub fn split_login_name(text: &str) -> (Option<&str>, &str) {
    text.split_once('/').map_or((None, text), |(project, name)| (Some(project), name))
}

/// The login name that a segment of a path stands for, which has a colon where the name has a slash: an encoded slash is refused in paths.
pub fn login_name_in_path(segment: &str) -> Option<String> {
    Some(segment.replacen(':', "/", 1)).filter(|name| is_login_name(name))
}

/// As it stands in a path.
pub fn login_name_for_path(name: &str) -> String {
    name.replacen('/', ":", 1)
}

/// The longest login name, in bytes.
pub const MAX_LOGIN_NAME: usize = 2 * MAX_NAME + 1;

/// What a person is told when the name of a user does not fit.
pub const USER_NAME_RULE: &str = "1 to 64 characters of A-Z a-z 0-9 . _ @ + - and must begin with a letter or a digit";

/// A label for people (the name of a key): 1 to 128 characters without control characters.
pub fn is_label(text: &str) -> bool {
    !text.trim().is_empty() && text.chars().count() <= 128 && !text.chars().any(char::is_control)
}

/// What a person is told when a label does not fit.
pub const LABEL_RULE: &str = "1 to 128 characters, none of them a control character";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_or_do_not() {
        for good in ["a", "acme", "run_inference", "w-42", "gpt-3.5-turbo", "0", &"x".repeat(64)] {
            assert!(is_name(good), "{good}");
        }
        for bad in ["", "*", "-a", ".a", "a/b", "a%2f", "a b", "a,b", "ä", "a\n", &"x".repeat(65)] {
            assert!(!is_name(bad), "{bad}");
        }
    }

    #[test]
    fn a_user_may_be_named_by_an_address() {
        for good in ["alice", "a", "alice@example.com", "bob+ops@example.com", "0", &"x".repeat(64)] {
            assert!(is_user_name(good), "{good}");
        }
        for bad in ["", "@alice", "+a", "*", "a b", "a/b", "a:b", "a%40b", "a,b", "ä", "a\n", &"x".repeat(65)] {
            assert!(!is_user_name(bad), "{bad}");
        }
    }

    #[test]
    fn a_login_may_say_the_project() {
        for good in ["alice", "acme/alice@example.com", "0/0", &format!("{0}/{0}", "x".repeat(64))] {
            assert!(is_login_name(good) && good.len() <= MAX_LOGIN_NAME, "{good}");
        }
        for bad in ["", "/", "/alice", "acme/", "acme/a/b", "*/alice", "a@b/c", "acme%2Falice", "acme /alice"] {
            assert!(!is_login_name(bad), "{bad}");
        }
        assert_eq!(split_login_name("acme/ann"), (Some("acme"), "ann"));
        for name in ["ann", "acme/ann@example.com"] {
            assert_eq!(login_name_in_path(&login_name_for_path(name)).as_deref(), Some(name));
        }
        assert_eq!(login_name_in_path("acme:a:b"), None);
    }

    #[test]
    fn labels_are_for_people() {
        assert!(is_label("Chat front end (EU)"));
        for bad in ["", "  ", "a\u{7}b", &"x".repeat(129)] {
            assert!(!is_label(bad), "{bad:?}");
        }
    }
}
