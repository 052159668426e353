//! The tables of the embedded store and the parts of their keys; [`redis`] has the names there. Never reads or writes anything itself.

pub mod redis;

use redb::TableDefinition;
use tollgate_core::credential::KeyId;
use tollgate_guard::time::Timestamp;

pub type DigestKey = &'static [u8; 32];
pub type IdKey = &'static [u8; 12];
pub type Bytes = &'static [u8];

/// Digest to its record: the one look-up of a check.
pub const KEYS: TableDefinition<'_, DigestKey, Bytes> = TableDefinition::new("keys");
/// Id of a key to its digest.
pub const KEY_IDS: TableDefinition<'_, IdKey, DigestKey> = TableDefinition::new("key_ids");
/// [`scoped`] project and id of a key, to the name of its plane.
pub const KEYS_BY_PROJECT: TableDefinition<'_, Bytes, Bytes> = TableDefinition::new("keys_by_project");
/// [`scoped`] plane and id of a key.
pub const KEYS_BY_PLANE: TableDefinition<'_, Bytes, ()> = TableDefinition::new("keys_by_plane");
/// [`scope`] project and plane, and id of a key. Since the third format.
pub const KEYS_BY_BOTH: TableDefinition<'_, Bytes, ()> = TableDefinition::new("keys_by_both");
/// [`scoped`] project and id of a key, to its record once more: where those of a project lie together, a page of them is a few reads.
/// Since the third format.
pub const KEYS_IN_PROJECTS: TableDefinition<'_, Bytes, Bytes> = TableDefinition::new("keys_in_projects");
/// Id of a key to the milliseconds since the Unix epoch of its last use. Apart from the records, so that use changes none.
pub const LAST_USED: TableDefinition<'_, IdKey, u64> = TableDefinition::new("last_used");
/// [`scoped`] kind and id, to its record.
pub const RESOURCES: TableDefinition<'_, Bytes, Bytes> = TableDefinition::new("resources");
/// [`scoped`] project, and then the key in [`RESOURCES`].
pub const RESOURCES_BY_PROJECT: TableDefinition<'_, Bytes, ()> = TableDefinition::new("resources_by_project");
/// Version of a pepper to its check value.
pub const PEPPERS: TableDefinition<'_, u32, DigestKey> = TableDefinition::new("peppers");
/// Name of a project to its record.
pub const PROJECTS: TableDefinition<'_, &'static str, Bytes> = TableDefinition::new("projects");
/// Name of a user to its record, also of deleted ones.
pub const USERS: TableDefinition<'_, &'static str, Bytes> = TableDefinition::new("users");
/// Name of a user that is not deleted. Since the third format.
pub const LISTED_USERS: TableDefinition<'_, &'static str, ()> = TableDefinition::new("listed_users");
/// [`scoped`] project and name of a user that is not deleted.
pub const USERS_BY_PROJECT: TableDefinition<'_, Bytes, ()> = TableDefinition::new("users_by_project");
/// [`scoped`] plain name and name of a user that is not deleted and has a project in the name. Since the third format.
pub const USERS_BY_PLAIN_NAME: TableDefinition<'_, Bytes, ()> = TableDefinition::new("users_by_plain_name");
/// Id of a session to its record.
pub const ENDED_SESSIONS: TableDefinition<'_, &'static str, Bytes> = TableDefinition::new("ended_sessions");
/// [`timed`] expiry and id of an ended session.
pub const ENDED_SESSIONS_BY_EXPIRY: TableDefinition<'_, Bytes, ()> = TableDefinition::new("ended_sessions_by_expiry");
/// Name of a user to its record. Since the third format.
pub const SESSIONS: TableDefinition<'_, &'static str, Bytes> = TableDefinition::new("sessions");
/// [`timed`] last expiry and name of a user with sessions. Since the third format.
pub const SESSIONS_BY_EXPIRY: TableDefinition<'_, Bytes, ()> = TableDefinition::new("sessions_by_expiry");
/// Id to its record.
pub const SIGNING_KEYS: TableDefinition<'_, &'static str, Bytes> = TableDefinition::new("signing_keys");
/// Sequence of a row to its record. Rows are added behind the last one, and removed from the oldest on.
pub const AUDIT: TableDefinition<'_, u64, Bytes> = TableDefinition::new("audit");
/// [`scoped`] project and sequence (big endian) of a row.
pub const AUDIT_BY_PROJECT: TableDefinition<'_, Bytes, ()> = TableDefinition::new("audit_by_project");
/// [`scope`] actor and project, or actor and nothing for every row of an actor, and sequence (big endian) of a row. Since the
/// third format.
pub const AUDIT_BY_ACTOR: TableDefinition<'_, Bytes, ()> = TableDefinition::new("audit_by_actor");
/// Digest of an idempotency key to its record.
pub const ONCE: TableDefinition<'_, DigestKey, Bytes> = TableDefinition::new("once");
/// [`timed`] use and digest of an idempotency key.
pub const ONCE_BY_TIME: TableDefinition<'_, Bytes, ()> = TableDefinition::new("once_by_time");
/// [`MIGRATION_ORIGIN`], if the store was filled from another one.
pub const MIGRATION: TableDefinition<'_, &'static str, &'static str> = TableDefinition::new("migration");
/// [`REMOVED_ROWS_LAST`] to what is noted of rows that were removed from the audit log.
pub const REMOVED_ROWS: TableDefinition<'_, &'static str, Bytes> = TableDefinition::new("removed_rows");
/// [`META_FORMAT`] and [`META_SEQUENCE`].
pub const META: TableDefinition<'_, &'static str, u64> = TableDefinition::new("meta");

/// The number of a [`Format`](super::format::Format), or [`UNFINISHED`](super::format::UNFINISHED).
pub const META_FORMAT: &str = "format";
/// The number of the last batch that was applied.
pub const META_SEQUENCE: &str = "sequence";

/// All of them.
pub const REMOVED_ROWS_LAST: &str = "all";

/// Which store it was filled from.
pub const MIGRATION_ORIGIN: &str = "origin";

/// Stands between the parts of a key, so no part may hold it.
const SEPARATOR: u8 = 0;

/// Whether the text can be a part of a [`scoped`] key.
pub fn is_part(text: &str) -> bool {
    !text.as_bytes().contains(&SEPARATOR)
}

/// Two parts in one key, ordered by the first and then by the second.
pub fn scoped(scope: &str, rest: &[u8]) -> Vec<u8> {
    let mut key = Vec::with_capacity(scope.len() + 1 + rest.len());
    key.extend_from_slice(scope.as_bytes());
    key.push(SEPARATOR);
    key.extend_from_slice(rest);
    key
}

/// A time and what happened at it in one key, ordered by the time.
pub fn timed(at: Timestamp, rest: &[u8]) -> Vec<u8> {
    [&at.as_millis().to_be_bytes(), rest].concat()
}

/// The second part of a [`timed`] key.
pub fn rest_of_timed(key: &[u8]) -> Option<&[u8]> {
    key.get(size_of::<u64>()..)
}

/// The first key behind all those of a scope.
pub fn scope_end(scope: &str) -> Vec<u8> {
    let mut end = scope.as_bytes().to_vec();
    end.push(SEPARATOR + 1);
    end
}

/// What all keys with these parts before their last one begin with.
pub fn scope(parts: [&str; 2]) -> Vec<u8> {
    let [first, second] = parts;
    scoped(first, &scoped(second, b""))
}

/// The first key behind all those that begin with a [`scope`].
pub fn scope_end_of(scope: &[u8]) -> Vec<u8> {
    match scope.split_last() {
        Some((separator, parts)) => [parts, &[separator + 1]].concat(),
        None => Vec::new(),
    }
}

/// A key that begins with a [`scope`].
pub fn within(parts: [&str; 2], rest: &[u8]) -> Vec<u8> {
    [&*scope(parts), rest].concat()
}

/// The second part of a [`scoped`] key.
pub fn rest_of(key: &[u8]) -> Option<&[u8]> {
    let at = key.iter().position(|byte| *byte == SEPARATOR)?;
    key.get(at + 1..)
}

/// An id as a key.
pub fn id_key(id: &KeyId) -> [u8; 12] {
    let mut key = [0; 12];
    for (to, from) in key.iter_mut().zip(id.as_str().bytes()) {
        *to = from;
    }
    key
}

/// The id that stands in a key.
pub fn key_id(key: &[u8]) -> Option<KeyId> {
    std::str::from_utf8(key).ok().and_then(KeyId::parse)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scoped_keys_keep_the_order_of_their_parts() {
        let mut pairs = [("a", "z"), ("a-b", "a"), ("ab", "a"), ("b", ""), ("", "x"), ("a", ""), ("a.", "q")];
        pairs.sort_unstable();
        let keys: Vec<_> = pairs.iter().map(|(scope, rest)| scoped(scope, rest.as_bytes())).collect();
        assert!(keys.is_sorted());
        for (key, (scope, rest)) in keys.iter().zip(pairs) {
            assert_eq!(rest_of(key), Some(rest.as_bytes()));
            assert!(*key < scope_end(scope));
            assert!(pairs.iter().all(|other| other.0 <= scope || scope_end(scope) <= scoped(other.0, b"")));
        }
        assert!(!is_part("a\0b"));
    }

    #[test]
    fn timed_keys_are_in_the_order_of_time() {
        let times = [0, 1, 255, 256, u64::MAX];
        let keys: Vec<_> = times.map(|at| timed(Timestamp::from_millis(at), b"z")).to_vec();
        assert!(keys.is_sorted());
        assert!(keys.iter().all(|key| rest_of_timed(key) == Some(b"z")));
        assert_eq!(rest_of_timed(b"short"), None);
    }

    #[test]
    fn an_id_is_its_own_key() {
        let id = KeyId::parse("abcdefABCDEF").unwrap();
        assert_eq!(&id_key(&id), b"abcdefABCDEF");
        assert_eq!(key_id(&id_key(&id)), Some(id));
        assert_eq!(key_id(&[255; 12]), None);
    }
}
