//! How a store is laid out: an older one opens and stays what it is, a newer one is refused, and each change is written for the
//! format that the store has at that very moment.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use redb::ReadableDatabase;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tollgate::domain::record::{ApiKey, OpenSession, Project, ProjectState, User};
use tollgate::store::format::Format;
use tollgate::store::migration::{MigrationStore, migrate};
use tollgate::store::redis::connect::Connector;
use tollgate::store::redis::connection::Connection;
use tollgate::store::upgrade::{Upgraded, upgrade};
use tollgate::store::{AuditQuery, Counted, KeyQuery, Quota, Store, StoreError, UserQuery, Write};
use tollgate_core::credential::{ProjectId, UserId};

use crate::redis_server::RedisServer;
use crate::signed;
use crate::support::{Apply, at, in_redis, key, key_of, project, resource, row, user};

/// One with an id.
fn ann() -> User {
    User { id: UserId::parse("abcdEFGH01234567"), ..user("ann") }
}

fn begins(id: &str) -> Write {
    let (generation, began_at, expires_at) = (1, at(5), at(9_000_000));
    let session = OpenSession { id: id.to_owned(), generation, began_at, expires_at, address: None };
    Write::BeginSession { user: "ann".to_owned(), session }
}

fn open(path: &Path) -> Result<Store, StoreError> {
    signed::embedded(path, Duration::from_secs(10)).map(|store| Store::Embedded(Arc::new(store)))
}

async fn head_says(server: &RedisServer, format: Format) {
    server.send::<u64>(&format!("HSET tg:{{tg}}:head format {}", format.in_head())).await;
}

#[tokio::test]
async fn a_new_store_is_made_at_the_newest_format() {
    let folder = tempfile::tempdir().unwrap();
    let file = open(&folder.path().join("store.redb")).unwrap();
    let (store, _, server) = in_redis().await;
    for store in [&file, &store] {
        assert_eq!(store.format().await.unwrap(), Format::Four);
        store.apply(vec![Write::CreateUser(ann())]).await.unwrap();
        assert_eq!(store.user("ann".to_owned()).await.unwrap().unwrap(), ann());
    }
    assert_eq!(server.send::<String>("HGET tg:{tg}:head format").await, "4");
}

#[tokio::test]
async fn an_older_store_stays_what_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.redb");
    drop(open(&path).unwrap());
    signed::file_says(&path, 2);
    let (store, _, server) = in_redis().await;
    head_says(&server, Format::Two).await;
    for store in [open(&path).unwrap(), store] {
        assert_eq!(store.format().await.unwrap(), Format::Two);
        store.apply(vec![Write::CreateUser(ann()), Write::CreateKey(key(1)), begins("s-1")]).await.unwrap();
        assert_eq!(store.sessions("ann".to_owned()).await.unwrap(), []);
        // Nothing is written that an older Tollgate would lose.
        assert_eq!(store.user("ann".to_owned()).await.unwrap().unwrap(), user("ann"));
        let id = ProjectId::parse("0000000000000001");
        let refused =
            store.apply(vec![Write::PutProject(Project { id, ..project("acme", ProjectState::Active) })]).await;
        assert!(matches!(refused, Err(StoreError::Conflict(_))), "{refused:?}");
    }
    assert_eq!(signed::file_says(&path, 2), 2);
    assert_eq!(server.send::<String>("HGET tg:{tg}:head format").await, "1", "as every Tollgate before wrote it");
    let Ok(Store::Embedded(_)) = open(&path) else { panic!("it does not open") };
}

/// The first format had no projects, and has been raised silently ever since.
#[tokio::test]
async fn the_first_format_is_read_as_the_second() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.redb");
    drop(open(&path).unwrap());
    signed::file_says(&path, 1);
    let store = open(&path).unwrap();
    assert_eq!(store.format().await.unwrap(), Format::Two);
    store.apply(vec![Write::CreateUser(ann())]).await.unwrap();
    drop(store);
    assert_eq!(signed::file_says(&path, 2), 2);
    assert!(redb::Database::open(&path).unwrap().begin_read().is_ok());
}

/// Stands before a server, and raises the format of its store just before it passes on what has these words.
async fn raises_before(server: &RedisServer, words: &'static str, format: Format) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, to) = (listener.local_addr().unwrap().to_string(), server.address());
    let operator = Connector::single(&to).unwrap().primary().await.unwrap();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            tokio::spawn(pass(client, to.clone(), operator.clone(), words, format));
        }
    });
    address
}

async fn pass(mut client: TcpStream, to: String, mut operator: Connection, words: &'static str, format: Format) {
    let mut server = TcpStream::connect(to).await.unwrap();
    let (mut asked, mut answered) = (vec![0; 1 << 16], vec![0; 1 << 16]);
    loop {
        tokio::select! {
            read = client.read(&mut asked) => {
                let Ok(length @ 1..) = read else { return };
                if asked[..length].windows(words.len()).any(|window| window == words.as_bytes()) {
                    let mut command = redis::cmd("HSET");
                    command.arg("tg:{tg}:head").arg("format").arg(format.in_head());
                    let _: u64 = command.query_async(&mut operator).await.unwrap();
                }
                if server.write_all(&asked[..length]).await.is_err() { return }
            }
            read = server.read(&mut answered) => {
                let Ok(length @ 1..) = read else { return };
                if client.write_all(&answered[..length]).await.is_err() { return }
            }
        }
    }
}

#[tokio::test]
async fn a_change_that_was_judged_for_another_format_is_judged_anew() {
    let (store, _, server) = in_redis().await;
    head_says(&server, Format::Two).await;
    let address = raises_before(&server, "say-it-now", Format::RisingToThree).await;
    let between = signed::redis(Connector::single(&address).unwrap());
    let between = Store::Redis(Arc::new(between));
    between.apply(vec![Write::CreateUser(ann()), Write::Audit(row("say-it-now"))]).await.unwrap();
    assert_eq!(store.format().await.unwrap(), Format::RisingToThree);
    assert_eq!(store.user("ann".to_owned()).await.unwrap().unwrap(), ann(), "it is as the format wants it");
}

#[tokio::test]
async fn a_migration_keeps_the_format_of_its_source() {
    let folder = tempfile::tempdir().unwrap();
    let old = folder.path().join("old.redb");
    let store = open(&old).unwrap();
    store.apply(vec![Write::CreateUser(user("ann"))]).await.unwrap();
    drop(store);
    signed::file_says(&old, Format::RisingToThree.in_file());
    let (store, redis, _server) = in_redis().await;
    let (source, target) = (
        MigrationStore::source_file(&old, signed::signers_of(7)).await.unwrap(),
        MigrationStore::redis(Arc::clone(&redis)).await.unwrap(),
    );
    let source = source.into();
    let refused = migrate(&source, &target, at(1)).await.unwrap_err().to_string();
    assert!(refused.contains("upgrade of the store has not ended"), "{refused}");
    drop(source);

    for format in [Format::Two, Format::Three, Format::Four] {
        match format {
            Format::Four => drop(upgrade(&open(&old).unwrap()).await.unwrap()),
            _ => drop(signed::file_says(&old, format.in_file())),
        }
        let change = User { version: format.written(), ..ann() };
        open(&old).unwrap().apply(vec![Write::UpdateUser(change)]).await.unwrap();
        let (store, redis, _server) = in_redis().await;
        let target = MigrationStore::redis(Arc::clone(&redis)).await.unwrap();
        migrate(&MigrationStore::source_file(&old, signed::signers_of(7)).await.unwrap().into(), &target, at(1))
            .await
            .unwrap();
        assert_eq!(store.format().await.unwrap(), format);
        let back = folder.path().join(format!("{format}.redb"));
        migrate(&target.into(), &MigrationStore::target_file(&back, signed::signers_of(7)).await.unwrap(), at(1))
            .await
            .unwrap();
        assert_eq!(open(&back).unwrap().format().await.unwrap(), format);
    }
    assert_eq!(store.format().await.unwrap(), Format::Four, "and the one that was refused is as it was");
}

/// Users without ids, one of them deleted, and a key.
async fn fill_as_of_old(store: &Store) {
    let gone = User { deleted: true, sessions: 2, version: 2, password_hash: String::new(), ..user("gone") };
    let many = (0..300).map(|n| Write::CreateUser(user(&format!("user-{n:03}"))));
    store
        .apply([Write::CreateUser(user("gone")), Write::UpdateUser(gone)].into_iter().chain(many).collect())
        .await
        .unwrap();
    let told = [project("told", ProjectState::Suspended), project("empty", ProjectState::Deleted)];
    store.apply(told.into_iter().map(Write::PutProject).collect()).await.unwrap();
    let of_told = (0..230).map(|n| Write::CreateKey(key_of(100 + n, "data", "told")));
    let rest = [key(1), key_of(2, "admin", "*")].map(Write::CreateKey).into_iter();
    let chat = Write::CreateResource(resource("workload", "w-1", "beta"));
    store.apply(rest.chain(of_told).chain([chat, Write::Audit(row("old"))]).collect()).await.unwrap();
}

/// Whether everything carries the id of its project, each of which has another one.
async fn all_are_at_home(store: &Store) -> bool {
    let projects = store.projects(None, 99).await.unwrap();
    let names: Vec<_> = projects.iter().map(|project| &*project.name).collect();
    assert_eq!(names, ["acme", "beta", "empty", "told"]);
    let ids: BTreeSet<_> = projects.iter().filter_map(|project| project.id).collect();
    let id = |name: &str| projects.iter().find(|project| project.name == name).unwrap().id;
    let keys = store.keys(KeyQuery { limit: 999, ..KeyQuery::default() }).await.unwrap();
    let users = store.users(UserQuery { limit: 999, ..UserQuery::default() }).await.unwrap();
    let gone = store.user("gone".to_owned()).await.unwrap().unwrap();
    let chat = store.resource("workload".to_owned(), "w-1".to_owned()).await.unwrap().unwrap();
    let at_home = |project: &str, carried: Option<ProjectId>| {
        if project == "*" { carried.is_none() } else { carried == id(project) }
    };
    ids.len() == 4
        && keys.len() == 232
        && keys.iter().all(|key| at_home(&key.project, key.project_id))
        && users.iter().chain([&gone]).all(|user| at_home(&user.project, user.project_id))
        && at_home("beta", chat.project_id)
}

async fn ids(store: &Store) -> BTreeMap<String, Option<UserId>> {
    let mut ids = BTreeMap::new();
    for name in (0..300).map(|n| format!("user-{n:03}")).chain(["gone".to_owned()]) {
        let id = store.user(name.clone()).await.unwrap().unwrap().id;
        ids.insert(name, id);
    }
    ids
}

fn all_differ(ids: &BTreeMap<String, Option<UserId>>) -> bool {
    ids.values().flatten().collect::<BTreeSet<_>>().len() == ids.len()
}

#[tokio::test]
async fn an_upgrade_gives_ids_and_changes_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.redb");
    drop(open(&path).unwrap());
    signed::file_says(&path, 2);
    let (in_redis, _, server) = in_redis().await;
    head_says(&server, Format::Two).await;
    for store in [open(&path).unwrap(), in_redis] {
        fill_as_of_old(&store).await;
        assert!(ids(&store).await.values().all(Option::is_none));
        let before = store.apply(vec![]).await.unwrap();
        assert_eq!(
            upgrade(&store).await.unwrap(),
            Upgraded { was: Format::Two, rewritten: 538, passed_over: Vec::new() }
        );
        assert_eq!(store.format().await.unwrap(), Format::Four);
        assert!(all_are_at_home(&store).await);
        let acme = store.project("acme".to_owned()).await.unwrap().unwrap();
        assert_eq!((acme.state, acme.version), (ProjectState::Active, 1));
        let told = store.project("told".to_owned()).await.unwrap().unwrap();
        assert_eq!(told, Project { id: told.id, version: 2, ..project("told", ProjectState::Suspended) });
        let given = ids(&store).await;
        assert!(all_differ(&given));
        assert_eq!(
            store.user("user-007".to_owned()).await.unwrap().unwrap(),
            User { id: given["user-007"], project_id: acme.id, ..user("user-007") }
        );
        let first = ApiKey { project_id: acme.id, ..key(1) };
        assert_eq!(store.key(key(1).id).await.unwrap().unwrap(), first);
        // What is listed by the indexes that came with the format.
        assert_eq!(store.users(UserQuery { limit: 999, ..UserQuery::default() }).await.unwrap().len(), 300);
        let of_both = KeyQuery { project: Some("acme".into()), plane: Some("data".into()), limit: 9, after: None };
        assert_eq!(store.keys(of_both).await.unwrap(), [first]);
        let by_her = AuditQuery { actor: Some(row("old").actor), limit: 9, ..AuditQuery::default() };
        assert_eq!(store.audit(by_her).await.unwrap().rows.len(), 1);
        assert!(store.apply(vec![]).await.unwrap() > before + 1, "whoever follows the log looks again");

        assert_eq!(
            upgrade(&store).await.unwrap(),
            Upgraded { was: Format::Four, rewritten: 0, passed_over: Vec::new() }
        );
        // A change by somebody who had read the record before.
        store.apply(vec![Write::UpdateUser(User { disabled: true, version: 2, ..user("user-007") })]).await.unwrap();
        assert_eq!(store.user("user-007".to_owned()).await.unwrap().unwrap().id, given["user-007"]);
        // Whoever is made in the place of somebody deleted is somebody else.
        store
            .apply(vec![Write::UpdateUser(User { version: 3, sessions: 3, id: ann().id, ..user("gone") })])
            .await
            .unwrap();
        assert_eq!(store.user("gone".to_owned()).await.unwrap().unwrap().id, ann().id);
        assert_ne!(given["gone"], ann().id);
    }
    let raw: String = server.send("HGET tg:{tg}:head format").await;
    assert_eq!(raw, "4", "an older Tollgate compares it with 1, and refuses");
}

/// An older Tollgate beside this one would not keep them.
#[tokio::test]
async fn quotas_begin_with_the_upgrade() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.redb");
    drop(open(&path).unwrap());
    signed::file_says(&path, 2);
    let (in_redis, _, server) = in_redis().await;
    head_says(&server, Format::Two).await;
    let quota = |counted, most| Write::Quota(Quota { counted, project: "acme".to_owned(), most });
    for store in [open(&path).unwrap(), in_redis] {
        let make_key =
            async |n: u64, most| store.apply(vec![quota(Counted::Keys, most), Write::CreateKey(key(n))]).await;
        let make_user = async |n: u64, most| {
            store.apply(vec![quota(Counted::Users, most), Write::CreateUser(user(&format!("user-{n}")))]).await
        };
        let make_thing = async |n: u64, most| {
            let made = Write::CreateResource(resource("workload", &format!("w-{n}"), "acme"));
            store.apply(vec![quota(Counted::Resources, most), made]).await
        };
        for n in 1..=3 {
            make_key(n, 1).await.unwrap();
            make_user(n, 1).await.unwrap();
            make_thing(n, 1).await.unwrap();
        }
        let gone = User { deleted: true, sessions: 2, version: 2, password_hash: String::new(), ..user("user-3") };
        store.apply(vec![Write::UpdateUser(gone)]).await.unwrap();
        upgrade(&store).await.unwrap();
        // What was there before counts, too.
        let over = [make_key(4, 3).await, make_user(4, 3).await, make_thing(4, 3).await];
        for result in over {
            assert!(matches!(result, Err(StoreError::OverQuota(_))), "{result:?}");
        }
        make_key(4, 4).await.unwrap();
        make_user(4, 4).await.unwrap();
        make_thing(4, 4).await.unwrap();
    }
}

#[tokio::test]
async fn an_upgrade_that_was_interrupted_goes_on() {
    let (store, _, server) = in_redis().await;
    head_says(&server, Format::Two).await;
    fill_as_of_old(&store).await;
    // Ended after the first records, while everybody writes the new format already.
    head_says(&server, Format::RisingToThree).await;
    for n in 0..40 {
        let id = UserId::parse(&format!("{n:016}")).unwrap();
        store.apply(vec![Write::GiveUserId { name: format!("user-{n:03}"), id }]).await.unwrap();
    }
    store.apply(vec![Write::CreateUser(ann())]).await.unwrap();
    let raw: String = server.send("HGET tg:{tg}:head format").await;
    assert!(raw != "1" && raw != "3", "an older Tollgate refuses it, and this one knows that it is not done: {raw}");
    assert_eq!(
        upgrade(&store).await.unwrap(),
        Upgraded { was: Format::RisingToThree, rewritten: 539, passed_over: Vec::new() }
    );
    assert!(all_are_at_home(&store).await);
    let given = ids(&store).await;
    assert!(all_differ(&given));
    assert_eq!(given["user-039"].unwrap().as_str(), "0000000000000039", "what was given stays");
    let acme = store.project("acme".to_owned()).await.unwrap().unwrap().id;
    assert_eq!(store.user("ann".to_owned()).await.unwrap().unwrap(), User { project_id: acme, ..ann() });
    assert_eq!(store.format().await.unwrap(), Format::Four);
}

#[tokio::test]
async fn an_upgrade_gives_many_projects_their_ids_at_once() {
    let (store, _, server) = in_redis().await;
    head_says(&server, Format::Two).await;
    let keys = (0..350).map(|n| Write::CreateKey(key_of(n, "data", &format!("project-{n:03}"))));
    store.apply(keys.collect()).await.unwrap();
    let before: u64 = server.send("HGET tg:{tg}:head seq").await;
    upgrade(&store).await.unwrap();
    let after: u64 = server.send("HGET tg:{tg}:head seq").await;
    let projects = store.projects(None, 999).await.unwrap();
    assert!(projects.len() == 350 && projects.iter().all(|project| project.id.is_some()));
    // Beginnings, ends, the marks, and four for each hundred.
    assert!(after - before <= 28, "{} changes", after - before);
}

/// Nobody forgets those that were killed while no replica runs.
#[tokio::test]
async fn a_store_whose_replicas_are_all_gone_is_upgraded() {
    let (store, redis, server) = in_redis().await;
    head_says(&server, Format::Two).await;
    let old =
        r#"{"name":"gpu-1","seq":0,"h":"","beat":7,"state":"attached","since":1,"grace_ms":60000,"version":"0.1.0"}"#;
    server.send::<u64>(&format!("HSET tg:{{tg}}:members a {old}")).await;
    server.send::<u64>(&format!("HSET tg:{{tg}}:members b {}", r#"{"name":"gpu-2","beat":1,"format":4}"#)).await;
    let upgraded = upgrade(&store).await.unwrap();
    assert_eq!((upgraded.was, &*upgraded.passed_over), (Format::Two, &["gpu-1 (a)".to_owned()][..]));
    assert_eq!(store.format().await.unwrap(), Format::Four);
    // Those that were listed are counted, with their graces, from the first moment on.
    server.send::<u64>("DEL tg:{tg}:members").await;
    let unlisted = redis.channel().await.unwrap().list().await.unwrap().unlisted.unwrap();
    assert_eq!((unlisted.count, unlisted.grace), (2, Duration::from_secs(60)));
    assert!(unlisted.still > Duration::from_secs(50), "{unlisted:?}");
}

#[tokio::test]
async fn a_store_that_somebody_misses_changes_of_is_not_touched() {
    let (store, redis, server) = in_redis().await;
    head_says(&server, Format::Two).await;
    fill_as_of_old(&store).await;
    store.apply(vec![Write::Audit(row("newer"))]).await.unwrap();
    let sequence: u64 = server.send("HGET tg:{tg}:head seq").await;
    let refused = async |expected: &str| {
        let error = upgrade(&store).await.unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
        assert_eq!(server.send::<u64>("HGET tg:{tg}:head seq").await, sequence);
        assert_eq!(server.send::<String>("HGET tg:{tg}:head format").await, Format::Two.in_head().to_string());
    };
    server
        .send::<u64>(&format!("HSET tg:{{tg}}:members a {}", r#"{"name":"gpu-1","format":4,"state":"sealed"}"#))
        .await;
    refused("refuse the store, as it has lost what they knew: gpu-1 (a)").await;
    server.send::<u64>("DEL tg:{tg}:members").await;
    server.send::<u64>("HSET tg:{tg}:head missed other").await;
    refused("has lost changes that a replica has applied").await;
    let trimmed = store.trim_audit(at(u64::MAX >> 12), 1).await;
    assert!(
        matches!(&trimmed, Err(StoreError::Unavailable(reason)) if reason.contains("has lost changes")),
        "{trimmed:?}"
    );
    let filled = redis.fill_indexes().await;
    assert!(
        matches!(&filled, Err(StoreError::Unavailable(reason)) if reason.contains("has lost changes")),
        "{filled:?}"
    );
    server.send::<u64>("HDEL tg:{tg}:head missed").await;
    // A change on top of what is left would hide that something is gone.
    server.send::<u64>("DEL tg:{tg}:log").await;
    refused("does not end where its head says").await;
}
