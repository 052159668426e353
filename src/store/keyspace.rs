//! Every table and key of the stores in one place. Never reads or writes anything itself.

use redb::TableDefinition;

use crate::domain::credential::KeyId;

/// The layout of the store. It rises with a change that an older Tollgate would misread; see `records.proto`.
pub const FORMAT: u64 = 1;

pub type DigestKey = &'static [u8; 32];
pub type IdKey = &'static [u8; 12];
pub type Bytes = &'static [u8];

/// Digest to `tollgate.v1.ApiKey`: the one look-up of a check.
pub const KEYS: TableDefinition<'_, DigestKey, Bytes> = TableDefinition::new("keys");
/// Id of a key to its digest.
pub const KEY_IDS: TableDefinition<'_, IdKey, DigestKey> = TableDefinition::new("key_ids");
/// [`scoped`] project and id of a key, to the name of its plane.
pub const KEYS_BY_PROJECT: TableDefinition<'_, Bytes, Bytes> = TableDefinition::new("keys_by_project");
/// [`scoped`] plane and id of a key.
pub const KEYS_BY_PLANE: TableDefinition<'_, Bytes, ()> = TableDefinition::new("keys_by_plane");
/// Id of a key to the milliseconds since the Unix epoch of its last use. Apart from the records, so that use changes none.
pub const LAST_USED: TableDefinition<'_, IdKey, u64> = TableDefinition::new("last_used");
/// [`scoped`] kind and id, to `tollgate.v1.Resource`.
pub const RESOURCES: TableDefinition<'_, Bytes, Bytes> = TableDefinition::new("resources");
/// [`scoped`] project, and then the key in [`RESOURCES`].
pub const RESOURCES_BY_PROJECT: TableDefinition<'_, Bytes, ()> = TableDefinition::new("resources_by_project");
/// Version of a pepper to its check value.
pub const PEPPERS: TableDefinition<'_, u32, DigestKey> = TableDefinition::new("peppers");
/// [`META_FORMAT`] and [`META_SEQUENCE`].
pub const META: TableDefinition<'_, &'static str, u64> = TableDefinition::new("meta");

/// [`FORMAT`] when the store was made.
pub const META_FORMAT: &str = "format";
/// The number of the last batch that was applied.
pub const META_SEQUENCE: &str = "sequence";

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

/// The first key behind all those of a scope.
pub fn scope_end(scope: &str) -> Vec<u8> {
    let mut end = scope.as_bytes().to_vec();
    end.push(SEPARATOR + 1);
    end
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
    fn an_id_is_its_own_key() {
        let id = KeyId::parse("abcdefABCDEF").unwrap();
        assert_eq!(&id_key(&id), b"abcdefABCDEF");
        assert_eq!(key_id(&id_key(&id)), Some(id));
        assert_eq!(key_id(&[255; 12]), None);
    }
}
