//! The JSON of the admin API, for the server, for the command line and for the description of the API. Never holds a secret
//! but the key just made and the password just sent.

pub mod audit;
pub mod fleet;
pub mod issuers;
pub mod keys;
pub mod projects;
pub mod resources;
pub mod session;
pub mod users;

use serde::de::{Error, Unexpected};
use serde::{Deserialize, Deserializer};
use tollgate_guard::time::Timestamp;

pub const KEYS: &str = "/api/v1/auth/api-keys";
pub const BACKUP: &str = "/api/v1/backup";
pub const BOOTSTRAP: &str = "/api/v1/auth/bootstrap";
pub const RESOURCES: &str = "/api/v1/resources";
pub const USERS: &str = "/api/v1/users";
pub const PROJECTS: &str = "/api/v1/projects";
pub const ISSUERS: &str = "/api/v1/issuers";
pub const FLEET: &str = "/api/v1/fleet";
pub const AUDIT: &str = "/api/v1/audit";
pub const LOGIN: &str = "/api/v1/auth/login";
pub const LOGOUT: &str = "/api/v1/auth/logout";
pub const JWKS: &str = "/.well-known/jwks.json";
pub const SESSIONS: &str = "/api/v1/auth/sessions";
pub const WHOAMI: &str = "/api/v1/auth/whoami";
pub const DESCRIPTION: &str = "/openapi.json";

/// Reads a field that is there, so that null is told from a field that is not.
fn present<'de, D: Deserializer<'de>, T: Deserialize<'de>>(field: D) -> Result<Option<T>, D::Error> {
    T::deserialize(field).map(Some)
}

/// Reads a whole number, or null. As in JSON Schema, `90.0` is one.
fn whole<'de, D: Deserializer<'de>>(field: D) -> Result<Option<u64>, D::Error> {
    let number = Option::<serde_json::Number>::deserialize(field)?;
    let exact = |float: f64| (float.fract() == 0.0 && (0.0..=MAX_EXACT).contains(&float)).then_some(float as u64);
    let read = |number: serde_json::Number| number.as_u64().or_else(|| number.as_f64().and_then(exact));
    let wrong = || D::Error::invalid_type(Unexpected::Other("another value"), &"a whole number that is not negative");
    number.map(|number| read(number).ok_or_else(wrong)).transpose()
}

/// Up to here a float tells whole numbers apart: 2^53.
const MAX_EXACT: f64 = 9_007_199_254_740_992.0;

/// A point in time for people and programs. A time beyond the calendar reads as the last that it has.
pub fn rfc3339(time: Timestamp) -> String {
    let millis = i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
    jiff::Timestamp::from_millisecond(millis).unwrap_or(jiff::Timestamp::MAX).to_string()
}

/// Reads RFC 3339; `None` before 1970 or if it is none.
pub fn timestamp(text: &str) -> Option<Timestamp> {
    let time: jiff::Timestamp = text.parse().ok()?;
    u64::try_from(time.as_millisecond()).ok().map(Timestamp::from_millis)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_numbers_are_numbers_without_a_fraction() {
        for (text, expected) in
            [("90", Some(90)), ("90.0", Some(90)), ("9e1", Some(90)), ("null", None), ("0", Some(0))]
        {
            assert_eq!(whole(&mut serde_json::Deserializer::from_str(text)).unwrap(), expected, "{text}");
        }
        for bad in ["-1", "-1.0", "1.5", "1e300", "\"1\"", "true", "[1]"] {
            assert!(whole(&mut serde_json::Deserializer::from_str(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn times_go_there_and_back() {
        let time = Timestamp::from_millis(1_795_000_000_250);
        assert_eq!(rfc3339(time), "2026-11-18T11:06:40.25Z");
        assert_eq!(timestamp(&rfc3339(time)), Some(time));
        assert_eq!(timestamp("2026-11-18T12:06:40.250+01:00"), Some(time));
        assert!(rfc3339(Timestamp::from_millis(u64::MAX)).starts_with("9999-"));
        assert_eq!(timestamp("tomorrow"), None);
    }
}
