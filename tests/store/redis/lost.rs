//! A store that has lost the end of something, and a replica that has heard of it: what is ended again, and what is left alone.

use std::sync::Arc;

use tokio::sync::watch;
use tollgate::clock::Clock;
use tollgate::domain::change::{Ended, Endings, Event, Stored};
use tollgate::domain::record::{EndedSession, Outcome, Project, ProjectState, User};
use tollgate::registry::{Actor, Expected, Registry};
use tollgate::resolve::api_key::Digester;
use tollgate::resolve::pepper::Pepper;
use tollgate::store::redis::Redis;
use tollgate::store::{AuditQuery, Store, StoreError, Write};
use tollgate_core::credential::ProjectId;
use tollgate_core::resource::Resource;
use tollgate_guard::protocol::Position;
use tollgate_guard::stamps::Stamps;
use zeroize::Zeroizing;

use super::{channel, write};
use crate::redis_server::RedisServer;
use crate::support::{at, id, in_redis, key, on_server, project, resource, user};

struct Replica {
    redis: Arc<Redis>,
    endings: Arc<Endings>,
    registry: Registry,
    /// Nothing is ever heard over it.
    _heard: watch::Sender<u64>,
    server: RedisServer,
}

impl Replica {
    async fn new() -> Self {
        let (store, redis, server) = in_redis().await;
        let digester = Arc::new(Digester::new(&Pepper::new(1, Zeroizing::new([7; 32])), &[]));
        let (stamps, (heard, hears)) = (Arc::new(Stamps::leased(Clock::System)), watch::channel(0));
        let endings = Arc::new(Endings::default());
        let registry = Registry::new(store, digester, stamps, Arc::default(), Clock::System);
        let registry = registry.in_fleet(hears, Arc::clone(&endings), None);
        Self { redis, endings, registry, _heard: heard, server }
    }

    /// Heard in a history that the store has left.
    async fn heard(&self, told: &[Ended]) {
        self.endings.hear(&elsewhere(1_000), told);
        let mut channel = self.redis.channel().await.unwrap();
        let head = channel::resync(&mut channel, &elsewhere(1_000)).await;
        self.endings.join(&head.position);
        self.registry.end_again().await.unwrap();
        let (newest, entries) = channel::ahead(&mut channel, &channel::standing_at(&head.position)).await;
        entries.iter().for_each(|entry| self.endings.hear(&entry.position, &entry.event.ended));
        assert_eq!(entries.last().map_or(head.position, |entry| entry.position.clone()), newest.position);
        // What stood as it should is known to be in what was heard.
        self.registry.end_again().await.unwrap();
        assert_eq!(self.endings.take_suspects(usize::MAX), []);
    }

    /// Who did what to what.
    async fn rows(&self) -> Vec<String> {
        let rows = self.redis.audit(&AuditQuery { limit: 99, ..AuditQuery::default() }).await.unwrap().rows;
        assert!(rows.iter().all(|row| row.outcome == Outcome::Done));
        let mut rows: Vec<_> = rows.iter().map(|row| format!("{} {} {}", row.actor, row.act, row.target)).collect();
        rows.sort();
        rows
    }

    async fn user(&self, name: &str) -> User {
        Store::Redis(Arc::clone(&self.redis)).user(name.to_owned()).await.unwrap().unwrap()
    }
}

fn elsewhere(sequence: u64) -> Position {
    Position { sequence, chain: "of another history".to_owned() }
}

fn told_of(user: &User) -> Ended {
    Ended::of_user(user)
}

#[tokio::test]
async fn everything_that_was_ended_is_ended_again() {
    let replica = Replica::new().await;
    let suspended = project("suspended", ProjectState::Suspended);
    let records = vec![
        Write::CreateKey(key(1)),
        Write::CreateKey(key(2)),
        Write::CreateResource(resource("workload", "deleted", "acme")),
        Write::PutProject(suspended.clone()),
        Write::PutProject(project("deleted", ProjectState::Suspended)),
        // Somebody was quicker to make something in it than to find the loss.
        Write::PutProject(Project { changed_at: at(9), ..project("used", ProjectState::Active) }),
        Write::PutProject(project("numbered", ProjectState::Suspended)),
    ];
    write(&replica.redis, records).await.unwrap();
    let resumed = Project { state: ProjectState::Active, changed_at: at(2), version: 2, ..suspended };
    // Or to give it an id, by which it has as many changes.
    let resumed_too = Project { name: "numbered".to_owned(), ..resumed.clone() };
    let numbered = Project { id: ProjectId::parse("0000000000000001"), version: 3, ..resumed_too.clone() };
    let batch = [resumed.clone(), resumed_too, numbered.clone()].map(Write::PutProject).to_vec();
    write(&replica.redis, batch).await.unwrap();
    let now = Clock::System.now();
    let session = |id: &str, ends: u64| EndedSession {
        id: id.to_owned(),
        user: "ann".to_owned(),
        ended_at: now,
        expires_at: at(now.as_millis() + ends),
    };
    let again = Project { state: ProjectState::Suspended, changed_at: at(3), version: 3, ..resumed };
    let told = [
        Ended::Key { digest: key(1).digest, at: at(9) },
        Ended::Session(session("s-1", 60_000)),
        Ended::Session(session("over", 0)),
        Ended::of_resource(&resource("workload", "deleted", "acme")),
        Ended::of_project(&again),
        Ended::of_project(&project("deleted", ProjectState::Deleted)),
        Ended::of_project(&project("of_nothing", ProjectState::Suspended)),
        Ended::of_project(&project("used", ProjectState::Suspended)),
        Ended::of_project(&Project { name: "numbered".to_owned(), ..again.clone() }),
        told_of(&user("unknown")),
    ];
    replica.heard(&told).await;

    let store = Store::Redis(Arc::clone(&replica.redis));
    assert_eq!(store.key(id(1)).await.unwrap().unwrap().revoked_at, Some(at(9)));
    assert_eq!(store.key(id(2)).await.unwrap().unwrap().revoked_at, None);
    assert_eq!(
        (store.ended_session("s-1".to_owned()).await, store.ended_session("over".to_owned()).await),
        (Ok(true), Ok(false))
    );
    assert_eq!(store.resource("workload".to_owned(), "deleted".to_owned()).await, Ok(None));
    assert_eq!(store.user("unknown".to_owned()).await, Ok(None));
    for (name, state, version) in [
        ("suspended", ProjectState::Suspended, 3),
        ("deleted", ProjectState::Deleted, 2),
        ("of_nothing", ProjectState::Suspended, 1),
        ("used", ProjectState::Suspended, 2),
        ("numbered", ProjectState::Suspended, 4),
    ] {
        let project = store.project(name.to_owned()).await.unwrap().unwrap();
        assert_eq!((project.state, project.version), (state, version), "{name}");
        assert!(project.id.is_some() || !["of_nothing", "used", "numbered"].contains(&name), "{name}");
    }
    let done = [
        format!("tollgate key.revoke key:{}", id(1)),
        "tollgate project.delete project:deleted".to_owned(),
        "tollgate project.suspend project:numbered".to_owned(),
        "tollgate project.suspend project:of_nothing".to_owned(),
        "tollgate project.suspend project:suspended".to_owned(),
        "tollgate project.suspend project:used".to_owned(),
        "tollgate resource.delete workload:deleted".to_owned(),
        "tollgate session.end session:s-1".to_owned(),
    ];
    assert_eq!(replica.rows().await, done);
    replica.heard(&told).await;
    assert_eq!(replica.rows().await, done, "once");
}

/// What was known of a user, what the store has, and what becomes of it; `None`: it stays.
#[tokio::test]
async fn a_user_becomes_what_was_heard_of_them() {
    let replica = Replica::new().await;
    let born = |millis, sessions| User { created_at: at(millis), sessions, ..user("") };
    let cases = [
        ("disabled", User { disabled: true, ..born(1, 4) }, born(1, 3), Some((5, true, false, "user.disable"))),
        ("deleted", User { deleted: true, ..born(1, 4) }, born(1, 3), Some((5, false, true, "user.delete"))),
        ("with-new-password", born(1, 4), born(1, 3), Some((5, false, false, "session.end"))),
        ("same", born(1, 4), born(1, 4), None),
        ("newer", User { disabled: true, ..born(1, 4) }, born(1, 5), None),
        // Another history has come to the same number in another way.
        ("as-new", User { disabled: true, ..born(1, 4) }, born(1, 4), Some((5, true, false, "user.disable"))),
        // The one who had the name before.
        ("older", born(2, 6), born(1, 4), Some((7, false, true, "user.delete"))),
        // One who was given it since, and must not be taken for the one who is gone.
        ("since", User { deleted: true, ..born(1, 4) }, born(2, 1), Some((5, false, false, "session.end"))),
    ];
    for (name, known, stored, _) in &cases {
        let named = |user: &User| User { name: (*name).to_owned(), ..user.clone() };
        write(&replica.redis, vec![Write::CreateUser(named(stored))]).await.unwrap();
        replica.heard(&[told_of(&named(known))]).await;
    }
    let mut done = Vec::new();
    for (name, _, stored, became) in &cases {
        let found = replica.user(name).await;
        let (sessions, disabled, deleted) = match became {
            Some((sessions, disabled, deleted, act)) => {
                done.push(format!("tollgate {act} user:{name}"));
                (*sessions, *disabled, *deleted)
            }
            None => (stored.sessions, stored.disabled, stored.deleted),
        };
        assert_eq!((found.sessions, found.disabled, found.deleted), (sessions, disabled, deleted), "{name}");
        assert_eq!(found.password_hash.is_empty(), deleted, "{name}");
    }
    done.sort();
    assert_eq!(replica.rows().await, done);
}

#[tokio::test]
async fn what_was_said_since_is_left_alone() {
    let replica = Replica::new().await;
    let resumed = Project { changed_at: at(9), version: 2, ..project("resumed", ProjectState::Active) };
    let records = vec![
        Write::PutProject(project("resumed", ProjectState::Suspended)),
        Write::PutProject(resumed),
        Write::CreateResource(Resource { created_at: at(9), ..resource("workload", "new", "acme") }),
    ];
    write(&replica.redis, records).await.unwrap();
    let told = [
        Ended::of_project(&Project { version: 3, changed_at: at(5), ..project("resumed", ProjectState::Suspended) }),
        Ended::of_resource(&resource("workload", "new", "acme")),
    ];
    replica.heard(&told).await;
    assert!(replica.rows().await.is_empty());
}

#[tokio::test]
async fn what_both_histories_have_is_not_looked_at() {
    let replica = Replica::new().await;
    write(&replica.redis, vec![Write::CreateKey(key(1)), Write::CreateKey(key(2))]).await.unwrap();
    // As if the records were lost and the log were not: whatever is looked at is ended.
    let told = |n| vec![Ended::Key { digest: key(n).digest, at: at(9) }];
    replica.redis.commit(&[], &Event::ending(told(1))).await.unwrap();
    let mut channel = replica.redis.channel().await.unwrap();
    let common = channel::resync(&mut channel, &elsewhere(2)).await.position;
    replica.endings.hear(&common, &told(1));
    replica.endings.hear(&elsewhere(3), &told(2));
    replica.endings.join(&common);
    replica.registry.end_again().await.unwrap();
    assert_eq!(replica.rows().await, [format!("tollgate key.revoke key:{}", id(2))]);

    let places = [elsewhere(3), common.clone(), elsewhere(1)];
    assert_eq!(replica.redis.newest_known(&common, &places).await, Ok(Some(2)));
    assert_eq!(replica.redis.newest_known(&common, &[elsewhere(1)]).await, Ok(None));
    assert_eq!(replica.redis.newest_known(&Position::default(), &[]).await, Ok(None), "the beginning");
    // A server that has gone another way, or lags, finds nothing out.
    for joined in [elsewhere(2), elsewhere(3), Position { sequence: 99, ..common.clone() }] {
        let found = replica.redis.newest_known(&joined, &places).await;
        assert!(matches!(found, Err(StoreError::Unavailable(_))), "{found:?}");
    }
}

#[tokio::test]
async fn what_is_ended_here_is_remembered_before_the_log_tells_of_it() {
    let replica = Replica::new().await;
    write(&replica.redis, vec![Write::CreateKey(key(1))]).await.unwrap();
    let actor = Actor::operator();
    let made = replica.registry.revoke_key(&actor, id(1), Expected::Any).await.unwrap();
    assert_eq!(replica.endings.take_suspects(9).len(), 1, "nothing was heard of it");
    let lost = Stored::Key { digest: &key(1).digest, revoked: false };
    assert!(replica.endings.contradicts(&lost));
    write(&replica.redis, vec![Write::CreateUser(user("ann"))]).await.unwrap();
    replica.registry.delete_user(&actor, "ann", Expected::Any).await.unwrap();
    let suspects = replica.endings.take_suspects(9);
    assert!(suspects.contains(&told_of(&replica.user("ann").await)), "{suspects:?}");
    // Whoever repeats what is so already can wait for the fleet all the same.
    let again = replica.registry.resume_project(&actor, "acme", Expected::Any).await.unwrap();
    assert!(again.sequence > made.sequence && made.sequence.is_some(), "{again:?}");
}

#[tokio::test]
async fn a_user_who_was_set_back_is_ended_without_the_older_password() {
    let replica = Replica::new().await;
    write(&replica.redis, vec![Write::CreateUser(user("ann"))]).await.unwrap();
    let mut channel = replica.redis.channel().await.unwrap();
    let head = channel::resync(&mut channel, &elsewhere(0)).await;
    let name = "tg:{tg}:u:ann";
    let mut connection =
        ::redis::Client::open(format!("redis://{}", replica.server.address())).unwrap().get_connection().unwrap();
    let older: Vec<u8> = ::redis::cmd("GET").arg(name).query(&mut connection).unwrap();
    let narrower = User { permissions: Vec::new(), password_hash: "newer".to_owned(), sessions: 2, ..user("ann") };
    let narrower = User { version: 2, ..narrower };
    write(&replica.redis, vec![Write::UpdateUser(narrower.clone())]).await.unwrap();
    let (newest, _) = channel::ahead(&mut channel, &channel::standing_at(&head.position)).await;
    replica.endings.hear(&newest.position, &[told_of(&narrower)]);
    ::redis::cmd("SET").arg(name).arg(older).exec(&mut connection).unwrap();
    assert!(replica.endings.contradicts(&Stored::User(&user("ann"))));
    replica.registry.end_again().await.unwrap();
    let ended = Store::Redis(on_server(&replica.server)).user("ann".to_owned()).await.unwrap().unwrap();
    assert!(ended.disabled && ended.sessions == 3, "{ended:?}");
    assert_eq!((&*ended.password_hash, ended.permissions), ("", Vec::new()));
}
