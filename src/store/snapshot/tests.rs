//! A snapshot of every kind of record, written, read, changed, cut off and damaged.

use std::io::Read;

use hmac::KeyInit;
use proptest::prelude::*;
use tollgate_core::credential::KeyId;
use tollgate_core::resource::Resource;
use tollgate_guard::digest::Digest;

use super::*;
use crate::domain::record::{
    ApiKey, AuditEntry, EndedSession, OpenSession, Outcome, Project, ProjectState, SigningKey, User, UserSessions,
};
use crate::store::OnceRecord;
use crate::store::kind::Kind;
use crate::store::record::Record;

fn signer(secret: u8) -> Signer {
    let pepper = PepperCheck { version: 3, check: [secret; 32] };
    Signer::new(pepper, Hmac::new_from_slice(&[secret; 32]).unwrap())
}

fn header() -> Header {
    Header {
        made_at: at(5),
        format: Format::Three,
        pepper: signer(1).pepper(),
        release: "0.1.0".to_owned(),
        lineage: Some("a lineage".to_owned()),
        was: "two before".to_owned(),
    }
}

fn at(millis: u64) -> Timestamp {
    Timestamp::from_millis(millis)
}

fn id(number: u8) -> KeyId {
    KeyId::parse(&format!("{number:012}")).unwrap()
}

fn key(number: u8, name: &str) -> Record {
    Record::Key(ApiKey {
        id: id(number),
        // In another order than the ids.
        digest: Digest([255 - number; 32]),
        pepper_version: 1,
        name: name.to_owned(),
        plane: "data".to_owned(),
        project: "acme".to_owned(),
        project_id: None,
        workloads: vec!["*".to_owned()],
        permissions: vec!["run".to_owned()],
        created_at: at(1),
        created_by: "operator".to_owned(),
        expires_at: None,
        retires_at: Some(at(9)),
        revoked_at: None,
        replaces: None,
        replaced_by: Some(id(9)),
        version: 2,
    })
}

fn row(sequence: u64) -> Record {
    Record::Audit(AuditEntry {
        sequence,
        at: at(7),
        actor: "operator".to_owned(),
        actor_id: None,
        act: "key.create".to_owned(),
        target: "key:x".to_owned(),
        project: None,
        outcome: Outcome::Done,
        reason: None,
        peer: "uid:0".to_owned(),
        request_id: "r".to_owned(),
    })
}

/// One of each kind that a snapshot has.
fn one_of_each() -> Vec<Record> {
    let user = User {
        name: "acme/ann".to_owned(),
        id: None,
        password_hash: "$argon2id$x".to_owned(),
        project: "acme".to_owned(),
        project_id: None,
        permissions: vec!["manage_keys".to_owned()],
        disabled: true,
        deleted: false,
        freed: false,
        sessions: 4,
        created_at: at(1),
        created_by: "operator".to_owned(),
        changed_at: at(2),
        version: 3,
    };
    let session = OpenSession { id: "s".to_owned(), generation: 1, began_at: at(1), expires_at: at(9), address: None };
    let ended = EndedSession { id: "e".to_owned(), user: "ann".to_owned(), ended_at: at(2), expires_at: at(9) };
    let (name, changed_by) = ("acme".to_owned(), "operator".to_owned());
    vec![
        Project { name, state: ProjectState::Suspended, changed_at: at(3), changed_by, version: 1, id: None }.into(),
        user.into(),
        ended.into(),
        UserSessions { user: "ann".to_owned(), sessions: vec![session] }.into(),
        SigningKey { id: "sign".to_owned(), sealed: vec![1; 80], created_at: at(1) }.into(),
        Record::Pepper(PepperCheck { version: 3, check: [1; 32] }),
        Resource {
            kind: "workload".to_owned(),
            id: "w-1".to_owned(),
            slug: "w-1".to_owned(),
            project: "acme".to_owned(),
            project_id: None,
            owner: None,
            created_at: at(1),
            version: 1,
        }
        .into(),
        key(1, "first"),
        OnceRecord { digest: [4; 32], fingerprint: [5; 32], target: "key:x".to_owned(), at: at(4) }.into(),
        row(1),
    ]
}

type Change = (Kind, Vec<u8>, Option<Record>);

fn written(records: &[Record], changes: &[Change]) -> Vec<u8> {
    let mut writer = SnapshotWriter::begin(Vec::new(), &header(), &signer(1)).unwrap();
    records.iter().for_each(|record| writer.record(record).unwrap());
    for (kind, place, now) in changes {
        writer.changed(*kind, place, now.as_ref()).unwrap();
    }
    writer.end(41, "chain").unwrap().0
}

fn opened(bytes: &[u8], secret: u8) -> Result<SnapshotFile, SnapshotError> {
    let bytes = bytes.to_vec();
    let open = move || Ok(Box::new(io::Cursor::new(bytes.clone())) as Box<dyn Read + Send>);
    SnapshotFile::open(Box::new(open), |_| Ok(signer(secret)), |_| Ok(()))
}

/// All that it gives, a few at a time.
fn all_in(file: &SnapshotFile, limit: usize) -> Vec<Record> {
    let mut all = Vec::new();
    for kind in Kind::ALL {
        let mut after = None;
        loop {
            let page = file.page(kind, after.as_deref(), limit).unwrap();
            assert!(page.records.len() <= limit && page.records.iter().all(|record| record.kind() == kind));
            all.extend(page.records);
            match page.next {
                Some(next) => after = Some(next),
                None => break,
            }
        }
    }
    all
}

#[test]
fn every_kind_comes_back_as_it_went_in() {
    let records = one_of_each();
    let kinds: Vec<Kind> = records.iter().map(Record::kind).collect();
    assert_eq!(kinds, Kind::ALL.into_iter().filter(|kind| kind.is_in_snapshots()).collect::<Vec<_>>());
    let file = opened(&written(&records, &[]), 1).unwrap();
    assert_eq!(file.header(), &header());
    assert_eq!(file.end(), &End { records: 10, sequence: 41, chain: "chain".to_owned() });
    for limit in [1, 2, 500] {
        assert_eq!(all_in(&file, limit), records);
    }
}

#[test]
fn what_was_changed_meanwhile_counts() {
    let records = [key(2, "two"), key(4, "four"), key(6, "six"), row(8), row(9)];
    let gone = |number: u8| (Kind::Keys, id(number).as_str().as_bytes().to_vec(), None);
    let now = |record: Record| (record.kind(), record.place(), Some(record));
    let changes =
        [now(one_of_each().remove(0)), now(key(1, "new")), gone(2), now(key(4, "changed")), gone(5), now(row(10))];
    let file = opened(&written(&records, &changes), 1).unwrap();
    let expected =
        vec![one_of_each().remove(0), key(1, "new"), key(4, "changed"), key(6, "six"), row(8), row(9), row(10)];
    for limit in [1, 2, 3, 500] {
        assert_eq!(all_in(&file, limit), expected, "{limit}");
    }
}

#[test]
fn nothing_that_is_not_whole_is_taken() {
    let whole = written(&one_of_each(), &[(Kind::Keys, id(1).as_str().as_bytes().to_vec(), None)]);
    assert!(opened(&whole, 1).is_ok());
    for length in 0..whole.len() {
        assert!(opened(&whole[..length], 1).is_err(), "cut off at {length}");
    }
    for at in 0..whole.len() {
        for bit in 0..8 {
            let mut bytes = whole.clone();
            bytes[at] ^= 1 << bit;
            assert!(opened(&bytes, 1).is_err(), "bit {bit} of byte {at}");
        }
    }
    let longer = [&*whole, &[0]].concat();
    assert!(matches!(opened(&longer, 1), Err(SnapshotError::Damaged(_))));
}

#[test]
fn each_fault_is_told_from_the_others() {
    let whole = written(&one_of_each(), &[]);
    let told = |bytes: &[u8]| opened(bytes, 1).unwrap_err().to_string();
    assert!(told(b"").contains("no backup of Tollgate"));
    assert!(told(b"age-encryption.org/v1\n and more").contains("no backup of Tollgate"));
    assert!(told(&whole[..whole.len() - 1]).contains("behind 10 records: it was cut off"));
    let mut newer = whole.clone();
    newer[MAGIC.len() + 3] = 2;
    assert!(told(&newer).contains("version 2, made by a newer Tollgate; this one reads version 1"));
    assert!(matches!(opened(&whole, 2), Err(SnapshotError::Unsigned)));
    // Whoever changes it can make its digest right, and not its signature.
    let forged = written(&[key(1, "mine")], &[]);
    let forged = [&forged[..forged.len() - DIGEST], &whole[whole.len() - DIGEST..]].concat();
    assert!(matches!(opened(&forged, 1), Err(SnapshotError::Unsigned)));
}

#[test]
fn records_stand_in_order() {
    for records in [vec![key(2, "a"), key(1, "b")], vec![key(1, "a"), key(1, "b")], vec![row(1), key(1, "a")]] {
        assert!(matches!(opened(&written(&records, &[]), 1), Err(SnapshotError::Damaged("the order of its records"))));
    }
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let mut begun = written(&[], &[]);
        begun.truncate(begun.len() - 100);
        let _ = opened(&[begun, bytes.clone()].concat(), 1);
        prop_assert!(opened(&bytes, 1).is_err());
    }
}
