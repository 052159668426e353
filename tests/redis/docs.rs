//! What `docs/fleet.md` recommends: it is enough, and not too much.

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::Duration;
use std::{fs, io};

use tollgate::domain::change::Event;
use tollgate::domain::record::{AuditEntry, Outcome, Project, ProjectState};
use tollgate::resolve::pepper::Pepper;
use tollgate::store::migration::{MigrationStore, migrate, restore};
use tollgate::store::redis::connect::Connector;
use tollgate::store::redis::location::{Location, Login};
use tollgate::store::redis::snapshot::Copied;
use tollgate::store::redis::survey::{Level, Survey};
use tollgate::store::snapshot::{SnapshotError, SnapshotFile};
use tollgate::store::{AuditQuery, KeyQuery, PepperCheck, Store, Write};
use tollgate_core::credential::KeyId;
use tollgate_guard::time::Timestamp;
use zeroize::Zeroizing;

use crate::connect::address;
use crate::servers::Server;
use crate::signed;

const PAGE: &str = include_str!("../../docs/fleet.md");

/// The lines of the page that begin with this word.
fn lines(word: &str) -> Vec<&'static str> {
    let found: Vec<_> = PAGE.lines().map(str::trim).filter(|line| line.split(' ').next() == Some(word)).collect();
    assert!(!found.is_empty(), "the page no longer has `{word}`");
    found
}

fn recommended() -> Vec<&'static str> {
    ["maxmemory-policy", "maxmemory", "appendonly", "appendfsync"].into_iter().flat_map(lines).collect()
}

#[tokio::test]
async fn the_settings_leave_nothing_to_be_said() {
    let server = Server::with(&recommended());
    let survey = Survey::of(&Connector::single(&server.address()).unwrap()).await.unwrap();
    assert_eq!((survey.findings.len(), survey.level), (0, Level::Bounded));
}

/// A server with the user that is recommended, and the way in as that user.
fn with_user() -> (Server, Connector) {
    let ours = |line: &&&str| line.starts_with("user tollgate");
    let user = lines("user").iter().find(ours).unwrap().replace("PASSWORD", "correct-horse");
    let server = Server::with(&[&recommended()[..], &[&user]].concat());
    let password = server.folder().join("password");
    fs::write(&password, "correct-horse").unwrap();
    fs::set_permissions(&password, fs::Permissions::from_mode(0o600)).unwrap();
    let login = Login { username: Some("tollgate".to_owned()), password: Some(password) };
    let connector = Connector::open(Location { login, ..Location::single(address(&server.address())) }).unwrap();
    (server, connector)
}

#[tokio::test]
async fn the_user_may_carry_a_store_there_and_back() {
    let (server, connector) = with_user();
    let folder = tempfile::tempdir().unwrap();
    let (from, back) = (folder.path().join("from.redb"), folder.path().join("back.redb"));
    let file = signed::embedded(&from, Duration::ZERO).unwrap();
    file.put_pepper_check(PepperCheck { version: 1, check: [1; 32] }).unwrap();
    drop(file);
    let redis = Arc::new(signed::redis(connector));
    redis.init().await.unwrap();
    let (source, fleet) = (
        MigrationStore::source_file(&from, signed::signers_of(7)).await.unwrap(),
        MigrationStore::redis(Arc::clone(&redis)).await.unwrap(),
    );
    let there = migrate(&source.into(), &fleet, Timestamp::from_millis(1)).await.unwrap();
    let again = migrate(
        &fleet.into(),
        &MigrationStore::target_file(&back, signed::signers_of(7)).await.unwrap(),
        Timestamp::from_millis(1),
    )
    .await
    .unwrap();
    assert_eq!(again.digest, there.digest);
    let signer = Pepper::new(1, Zeroizing::new([7; 32])).snapshot_signer();
    let copied = redis.snapshot(Vec::new(), Timestamp::from_millis(1), &signer, |_| {}).await.unwrap();
    let Copied::Whole(bytes, _) = copied else { panic!("nothing else writes to it") };
    let refusals: Vec<redis::Value> = server.command(&["ACL", "LOG"]);
    assert!(refusals.is_empty(), "{refusals:?}");

    let open = move || io::Result::Ok(Box::new(io::Cursor::new(bytes.clone())) as Box<dyn io::Read + Send>);
    let backup = SnapshotFile::open::<SnapshotError>(Box::new(open), |_| Ok(signer), |_| Ok(())).unwrap();
    let (server, connector) = with_user();
    let redis = Arc::new(signed::redis(connector));
    let target = MigrationStore::redis_for(Arc::clone(&redis), &backup).await.unwrap();
    restore(Arc::new(backup), &target, &row(), Timestamp::from_millis(1)).await.unwrap();
    assert_eq!(redis.audit(&AuditQuery { limit: 9, ..AuditQuery::default() }).await.unwrap().rows.len(), 1);
    let refusals: Vec<redis::Value> = server.command(&["ACL", "LOG"]);
    assert!(refusals.is_empty(), "{refusals:?}");
}

fn row() -> AuditEntry {
    AuditEntry {
        sequence: 0,
        at: Timestamp::from_millis(1),
        actor: "operator".to_owned(),
        actor_id: None,
        act: "store.restore".to_owned(),
        target: "store".to_owned(),
        project: None,
        outcome: Outcome::Done,
        reason: None,
        peer: "store restore".to_owned(),
        request_id: String::new(),
    }
}

#[tokio::test]
async fn the_user_may_do_what_tollgate_does_and_no_harm() {
    let (server, connector) = with_user();
    let survey = Survey::of(&connector).await.unwrap();
    assert_eq!((survey.findings.len(), survey.level), (0, Level::Bounded));

    let redis = Arc::new(signed::redis(connector.clone()));
    redis.init().await.unwrap();
    let project = Project {
        name: "acme".to_owned(),
        id: None,
        state: ProjectState::Active,
        changed_at: Timestamp::from_millis(1),
        changed_by: "operator".to_owned(),
        version: 1,
    };
    let store = Store::Redis(Arc::clone(&redis));
    store.commit(vec![Write::PutProject(project.clone())], Event::touching(&[])).await.unwrap();
    assert_eq!(store.load_project("acme".to_owned()).await.unwrap().found, Some(project));
    let id = KeyId::parse("abcdefABCDEF").unwrap();
    store.note_use(vec![(id, Timestamp::from_millis(1))]).await.unwrap();
    assert_eq!(store.last_used(vec![id]).await.unwrap(), [Some(Timestamp::from_millis(1))]);
    assert!(store.keys(KeyQuery { limit: 1, ..KeyQuery::default() }).await.unwrap().is_empty());
    assert!(store.audit(AuditQuery { limit: 1, ..AuditQuery::default() }).await.unwrap().rows.is_empty());
    let mut channel = redis.channel().await.unwrap();
    assert!(channel.members().await.unwrap().is_empty());
    channel.bell(1, Duration::from_millis(1)).await.unwrap();
    channel.leave("nobody").await.unwrap();

    let mut connection = connector.primary().await.unwrap();
    for harm in [&["FLUSHALL"][..], &["CONFIG", "SET", "appendonly", "no"], &["SHUTDOWN"], &["GET", "other"]] {
        let refused = redis::cmd(harm[0]).arg(&harm[1..]).query_async::<redis::Value>(&mut connection).await;
        assert_eq!(refused.unwrap_err().code(), Some("NOPERM"), "{harm:?}");
    }
    let refusals: Vec<redis::Value> = server.command(&["ACL", "LOG"]);
    // Ours alone: no command of Tollgate was refused.
    assert_eq!(refusals.len(), 4, "{refusals:?}");
}
