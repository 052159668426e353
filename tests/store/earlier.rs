//! A store that the release before format 3 has written, byte by byte, as a file and in Redis: it opens, everything in it means what it
//! meant, and so it does once it was upgraded. `tests/store/earlier/` was made with that release: `store.redb` by its commands, and
//! `dump.rdb` by its `store migrate`.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tollgate::clock::Clock;
use tollgate::domain::record::ProjectState;
use tollgate::password::{LoginPriority, Passwords};
use tollgate::resolve::api_key::Digester;
use tollgate::resolve::cache::Sizes;
use tollgate::resolve::pepper::Pepper;
use tollgate::run::Core;
use tollgate::store::format::Format;
use tollgate::store::redis::connect::Connector;
use tollgate::store::upgrade::upgrade;
use tollgate::store::{AuditQuery, KeyQuery, Store, UserQuery, Write};
use tollgate_core::credential::PresentedKey;
use zeroize::Zeroizing;

use crate::redis_server::RedisServer;
use crate::signed;
use crate::support::{Apply, key};

const GOOD: (&str, &str) = ("ik_live", "ik_live_9ZjUQwlHHnA7_bfMp2aBX05wexsdZWAuHriQFaoe3DmEuTNfrakxWgpM3dCeQv");
const REVOKED: (&str, &str) = ("ik_live", "ik_live_QfJM9247eXzo_vYKGugVMxjpd1sVs8EwI2CJk6aTRGLpZKu602P3yKqa4MWTov");
const OF_SUSPENDED: (&str, &str) =
    ("ik_live", "ik_live_sJyyOMfKVzUk_AgiUr7HVlQS1PBlWKLw0EcDnsR8kvnpVtgFg9PyI6wo1160c5");
const ADMIN: (&str, &str) = ("ik_admin", "ik_admin_Bo6OrgfCph4J_3KiRtvLRbIFltt5yMX6tV8BvJaK2RtH2DzBmKAsgiK52hfndG");
const PASSWORD: &str = "correct horse battery";

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/store/earlier").join(name)
}

/// Where this may be changed.
fn copied(name: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::copy(fixture(name), folder.path().join(name)).unwrap();
    // A checkout may let the group write.
    fs::set_permissions(folder.path().join(name), fs::Permissions::from_mode(0o600)).unwrap();
    folder
}

async fn means_what_it_meant(store: &Store) {
    let digester = Digester::new(&Pepper::new(1, Zeroizing::new([0x5a; 32])), &[]);
    let core = Core::new(store.clone(), digester, Sizes { known: 99, unknown: 99, loads: 9 }, Clock::System);
    for ((prefix, secret), is_valid) in [(GOOD, true), (REVOKED, false), (OF_SUSPENDED, false), (ADMIN, true)] {
        let presented = PresentedKey::parse(secret, prefix).unwrap();
        let found = core.resolver.principal(&presented, Duration::ZERO).await.unwrap().value.unwrap();
        assert_eq!(!found.revoked, is_valid, "{}", presented.id());
    }
    let mut keys = store.keys(KeyQuery { limit: 99, ..KeyQuery::default() }).await.unwrap();
    keys.retain(|known| known.id != key(1).id);
    keys.sort_by(|one, other| one.name.cmp(&other.name));
    let told: Vec<_> = keys
        .iter()
        .map(|key| {
            (&*key.name, &*key.plane, &*key.project, key.workloads.join(","), key.permissions.join(","), key.version)
        })
        .collect();
    let all = || "*".to_owned();
    assert_eq!(
        told,
        [
            ("admin", "admin", "acme", all(), "manage_keys".to_owned(), 1),
            ("gone", "data", "acme", "w-1,w-2".to_owned(), "run,tune".to_owned(), 2),
            ("good", "data", "acme", all(), "run".to_owned(), 1),
            ("other", "data", "beta", all(), "run".to_owned(), 1),
        ]
    );
    let users = store.users(UserQuery { limit: 99, ..UserQuery::default() }).await.unwrap();
    let [ada] = users.as_slice() else { panic!("{users:?}") };
    assert_eq!((&*ada.name, &*ada.project, ada.permissions.join(",")), ("ada", "acme", "manage_keys,run".to_owned()));
    let passwords = Passwords::start().unwrap();
    for (password, is_right) in [(PASSWORD, true), ("another horse battery", false)] {
        let password = Zeroizing::new(password.to_owned());
        let verified = passwords.verify(LoginPriority::Anyone(None), password, Some(ada.password_hash.clone())).await;
        assert_eq!(verified.ok(), Some(is_right));
    }
    assert!(store.user("gone".to_owned()).await.unwrap().is_some_and(|user| user.deleted));
    let workload = store.resource("workload".to_owned(), "w-1".to_owned()).await.unwrap().unwrap();
    assert_eq!(workload.project, "acme");
    let beta = store.project("beta".to_owned()).await.unwrap().unwrap();
    assert_eq!(beta.state, ProjectState::Suspended);
    let rows = store.audit(AuditQuery { limit: 99, ..AuditQuery::default() }).await.unwrap().rows;
    let acts: Vec<_> = rows.iter().rev().map(|row| &*row.act).take(11).collect();
    assert_eq!(
        acts,
        [
            "signing_key.create",
            "key.create",
            "key.create",
            "key.create",
            "key.create",
            "key.revoke",
            "user.create",
            "user.create",
            "user.delete",
            "project.suspend",
            "resource.put",
        ]
    );
}

/// As it is, with something new in it, and upgraded.
async fn is_used(store: &Store) {
    assert_eq!(store.format().await.unwrap(), Format::Two);
    means_what_it_meant(store).await;
    store.apply(vec![Write::CreateKey(key(1))]).await.unwrap();
    assert_eq!(store.format().await.unwrap(), Format::Two);
    means_what_it_meant(store).await;
    upgrade(store).await.unwrap();
    assert_eq!(store.format().await.unwrap(), Format::Four);
    let found = store.distrusted().await.unwrap();
    assert!(found.found == 0 && found.looked_at > 9, "{found:?}");
    means_what_it_meant(store).await;
    let acme = store.project("acme".to_owned()).await.unwrap().unwrap();
    let keys = store.keys(KeyQuery { limit: 99, ..KeyQuery::default() }).await.unwrap();
    let of_acme: Vec<_> = keys.iter().filter(|key| key.project == "acme").collect();
    assert!(acme.id.is_some() && of_acme.len() == 4 && of_acme.iter().all(|key| key.project_id == acme.id));
    let users = store.users(UserQuery { limit: 99, ..UserQuery::default() }).await.unwrap();
    assert!(users.iter().all(|user| user.id.is_some()));
}

#[tokio::test]
async fn a_file_of_an_earlier_release_means_what_it_meant() {
    let folder = copied("store.redb");
    let path = folder.path().join("store.redb");
    is_used(&Store::Embedded(Arc::new(signed::embedded(&path, Duration::ZERO).unwrap()))).await;
    means_what_it_meant(&Store::Embedded(Arc::new(signed::embedded(&path, Duration::from_secs(9)).unwrap()))).await;
}

#[tokio::test]
async fn a_redis_of_an_earlier_release_means_what_it_meant() {
    let folder = copied("dump.rdb");
    let path = folder.path().to_str().unwrap();
    let server = RedisServer::start_with(&["--appendonly", "no", "--dir", path, "--dbfilename", "dump.rdb"]).await;
    let connect = || {
        let connector = Connector::single(&server.address()).unwrap();
        Store::Redis(Arc::new(signed::redis(connector)))
    };
    is_used(&connect()).await;
    means_what_it_meant(&connect()).await;
}
