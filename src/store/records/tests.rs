//! What is written is read again, and no bytes are a panic. Never touches a store.

use proptest::prelude::*;
use tollgate_core::credential::{KeyId, ProjectId, UserId};
use tollgate_core::resource::Resource;
use tollgate_guard::digest::Digest;
use tollgate_guard::time::Timestamp;

use super::super::format::Format;
use super::super::{OnceRecord, StoreError};
use super::audit::{decode_audit, encode_audit};
use super::key::{decode_key, encode_key};
use super::noun::Noun;
use crate::domain::record::{ApiKey, AuditEntry, EndedSession, Outcome, SigningKey, User};

/// As it is read from where it was written.
fn again<N: Noun>(record: &N, format: Format) -> N {
    N::decode(&record.place(), &record.encode(format)).unwrap()
}

fn full_key() -> ApiKey {
    ApiKey {
        id: KeyId::parse("abcdefABCDEF").unwrap(),
        digest: Digest([7; 32]),
        pepper_version: 3,
        name: "Chat front end".to_owned(),
        plane: "data".to_owned(),
        project: "acme".to_owned(),
        project_id: ProjectId::parse("0123456789abcdEF"),
        workloads: vec!["chat".to_owned(), "embed".to_owned()],
        permissions: vec!["run_inference".to_owned()],
        created_at: Timestamp::from_millis(1),
        created_by: "operator".to_owned(),
        expires_at: Some(Timestamp::from_millis(0)),
        retires_at: Some(Timestamp::from_millis(u64::MAX)),
        revoked_at: Some(Timestamp::from_millis(4)),
        replaces: KeyId::parse("000000000000"),
        replaced_by: KeyId::parse("zzzzzzzzzzzz"),
        version: 9,
    }
}

fn resource() -> Resource {
    Resource {
        kind: "workload".to_owned(),
        id: "w-1".to_owned(),
        slug: "chat".to_owned(),
        project: "acme".to_owned(),
        project_id: ProjectId::parse("0123456789abcdEF"),
        owner: Some("key:abcdefABCDEF".to_owned()),
        created_at: Timestamp::from_millis(5),
        version: 2,
    }
}

#[test]
fn records_come_back_as_they_were() {
    let full = full_key();
    assert_eq!(decode_key(&encode_key(&full)).unwrap(), full);
    let bare = ApiKey {
        project_id: None,
        workloads: vec![],
        permissions: vec![],
        expires_at: None,
        retires_at: None,
        revoked_at: None,
        replaces: None,
        replaced_by: None,
        ..full
    };
    assert_eq!(decode_key(&encode_key(&bare)).unwrap(), bare);
    assert_eq!(again(&resource(), Format::NEWEST), resource());
    let unowned = Resource { owner: None, project_id: None, ..resource() };
    assert_eq!(again(&unowned, Format::NEWEST), unowned);
}

#[test]
fn a_record_in_the_place_of_another_is_damage() {
    let moved = resource().encode(Format::NEWEST);
    for place in [b"workload\0w-2".as_slice(), b"run\0w-1", b"workloadw-1", b""] {
        assert!(matches!(Resource::decode(place, &moved), Err(StoreError::Damaged(_))), "{place:?}");
    }
    let ended = EndedSession {
        id: "s".to_owned(),
        user: "u".to_owned(),
        ended_at: Timestamp::from_millis(1),
        expires_at: Timestamp::from_millis(2),
    };
    let moved = ended.encode(Format::NEWEST);
    assert_eq!(EndedSession::decode(b"s", &moved), Ok(ended));
    assert!(matches!(EndedSession::decode(b"t", &moved), Err(StoreError::Damaged(_))));
}

#[test]
fn fields_of_a_later_version_are_passed_over() {
    // Field 200, length-delimited, "new"; then field 201, varint 1.
    let later = [0xc2, 0x0c, 3, b'n', b'e', b'w', 0xc8, 0x0c, 1];
    let key = [encode_key(&full_key()), later.to_vec()].concat();
    assert_eq!(decode_key(&key).unwrap(), full_key());
    let thing = [resource().encode(Format::NEWEST), later.to_vec()].concat();
    assert_eq!(Resource::decode(&resource().place(), &thing).unwrap(), resource());
}

#[test]
fn what_is_no_record_is_damage() {
    let good = encode_key(&full_key());
    // Of a field that is there twice the last one counts: fields 2, 1 and 14, length-delimited.
    let short_digest = [&*good, &[0x12, 31], &[7; 31]].concat();
    let bad_id = [&*good, &[0x0a, 9], b"too-short"].concat();
    let bad_link = [&*good, &[0x72, 0]].concat();
    for bytes in [short_digest, bad_id, bad_link, vec![], vec![255]] {
        assert!(matches!(decode_key(&bytes), Err(StoreError::Damaged(_))));
    }
    assert!(matches!(Resource::decode(b"", &[8]), Err(StoreError::Damaged(_))));
    // A row that does not say how it ended, and an idempotency key without a fingerprint.
    assert!(matches!(decode_audit(&[]), Err(StoreError::Damaged(_))));
    assert!(matches!(OnceRecord::decode(&[0; 32], &[]), Err(StoreError::Damaged(_))));
}

fn texts() -> impl Strategy<Value = Vec<String>> {
    proptest::collection::vec(".{0,20}", 0..4)
}

fn times() -> impl Strategy<Value = Timestamp> {
    any::<u64>().prop_map(Timestamp::from_millis)
}

prop_compose! {
    fn users()(
        (name, password_hash, project, created_by) in (".{0,20}", ".{0,99}", ".{0,20}", ".{0,20}"),
        permissions in texts(),
        (disabled, deleted, freed, sessions, version) in any::<(bool, bool, bool, u64, u64)>(),
        (created_at, changed_at) in (times(), times()),
    ) -> User {
        User {
            id: UserId::parse("abcdEFGH01234567"),
            project_id: ProjectId::parse("0123456789abcdEF"),
            name, password_hash, project, permissions, disabled, deleted, freed, sessions, created_at, created_by, changed_at,
            version,
        }
    }
}

prop_compose! {
    fn audit_entries()(
        sequence: u64,
        at in times(),
        (actor, act, target, peer, request_id) in (".{0,20}", ".{0,20}", ".{0,20}", ".{0,20}", ".{0,20}"),
        (project, reason) in (proptest::option::of(".{0,20}"), proptest::option::of(".{0,20}")),
        actor_id in proptest::option::of("[a-z]{0,20}"),
        refused: bool,
    ) -> AuditEntry {
        let outcome = if refused { Outcome::Refused } else { Outcome::Done };
        AuditEntry { sequence, at, actor, actor_id, act, target, project, outcome, reason, peer, request_id }
    }
}

proptest! {
    #[test]
    fn users_come_back_as_they_were(user in users()) {
        let older = again(&user, Format::Two);
        let newer = again(&user, Format::Three);
        prop_assert_eq!(&newer, &user);
        prop_assert_eq!(older, User { id: None, project_id: None, freed: false, ..user }, "what the older format does not have is not written in it");
    }

    #[test]
    fn rows_come_back_as_they_were(entry in audit_entries()) {
        prop_assert_eq!(decode_audit(&encode_audit(&entry)).unwrap(), entry);
    }

    #[test]
    fn sessions_and_their_keys_come_back_as_they_were(
        (id, user) in (".{0,20}", ".{0,20}"),
        (ended_at, expires_at) in (times(), times()),
        sealed in proptest::collection::vec(any::<u8>(), 0..200),
    ) {
        let key = SigningKey { id: id.clone(), sealed, created_at: ended_at };
        prop_assert_eq!(again(&key, Format::NEWEST), key);
        let session = EndedSession { id, user, ended_at, expires_at };
        prop_assert_eq!(again(&session, Format::NEWEST), session);
    }

    #[test]
    fn idempotency_keys_come_back_as_they_were(digest: [u8; 32], fingerprint: [u8; 32], target in ".{0,20}", at in times()) {
        let once = OnceRecord { digest, fingerprint, target, at };
        prop_assert_eq!(again(&once, Format::NEWEST), once);
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = decode_key(&bytes);
        let _ = Resource::decode(b"", &bytes);
        let _ = User::decode(b"", &bytes);
        let _ = EndedSession::decode(b"", &bytes);
        let _ = SigningKey::decode(b"", &bytes);
        let _ = decode_audit(&bytes);
        let _ = OnceRecord::decode(&[0; 32], &bytes);
    }

    #[test]
    fn no_damage_makes_it_panic(at in 0usize..120, byte: u8, cut in 0usize..200) {
        let mut bytes = encode_key(&full_key());
        let len = bytes.len();
        bytes[at % len] = byte;
        bytes.truncate(cut);
        let _ = decode_key(&bytes);
    }
}
