//! How a replica follows the log: what it is told, and when it must begin anew.

use std::time::{Duration, Instant};

use tollgate::domain::change::{Ended, Event, LogEntry, Renewal};
use tollgate::domain::record::{EndedSession, ProjectState, User};
use tollgate::store::StoreError;
use tollgate::store::redis::store_state::StoreState;
use tollgate::store::redis::{Channel, Redis};
use tollgate_guard::FENCE;
use tollgate_guard::protocol::{Head, Member, MemberState, Position, Refused};
use tollgate_guard::slots::Touched;

use super::{wait_for, write};
use crate::redis_server::RedisServer;
use crate::support::{at, in_redis, key, on_server, project, resource, row, user};

pub fn member(id: &str) -> Member {
    Member {
        id: id.to_owned(),
        name: format!("host-of-{id}"),
        position: Position { sequence: 0, chain: String::new() },
        beat: 1,
        state: MemberState::Syncing,
        since: at(17),
        grace: Duration::from_secs(30),
        version: "0.1.0".to_owned(),
        format: 3,
    }
}

pub fn standing_at(position: &Position) -> Member {
    Member { position: position.clone(), ..member("a") }
}

pub async fn ahead(channel: &mut Channel, member: &Member) -> (Head, Vec<LogEntry>) {
    match channel.renew(member).await.unwrap() {
        Renewal::Ahead { head, entries } => (head, entries),
        other => panic!("{other:?}"),
    }
}

pub async fn resync(channel: &mut Channel, position: &Position) -> Head {
    let member = standing_at(position);
    let head = match channel.renew(&member).await.unwrap() {
        Renewal::Resync(head) | Renewal::Gone(head) => head,
        other => panic!("{other:?}"),
    };
    let noted = channel.members().await.unwrap().into_iter().find(|noted| noted.id == member.id).unwrap();
    assert_eq!(noted, Member { position: Position { sequence: 0, chain: String::new() }, ..member });
    head
}

async fn change(redis: &Redis, slot: u16) -> u64 {
    redis.commit(&[], &Event { touched: Touched::Slots(vec![slot]), ended: Vec::new() }).await.unwrap()
}

#[tokio::test]
async fn a_replica_hears_every_change_in_order() {
    let (_, redis, _server) = in_redis().await;
    let mut channel = redis.channel().await.unwrap();
    let (head, entries) = ahead(&mut channel, &member("a")).await;
    assert_eq!((head.position, entries), (Position { sequence: 0, chain: String::new() }, vec![]));

    change(&redis, 1).await;
    let start = resync(&mut channel, &Position { sequence: 0, chain: String::new() }).await;
    assert_eq!((&start.lineage, start.position.sequence), (&head.lineage, 1));
    let events = [
        Event { touched: Touched::Slots(vec![3, 16_383]), ended: Vec::new() },
        Event { touched: Touched::All, ended: every_end() },
        Event { touched: Touched::Slots(vec![]), ended: Vec::new() },
    ];
    for event in &events {
        redis.commit(&[], event).await.unwrap();
    }
    let (newest, entries) = ahead(&mut channel, &standing_at(&start.position)).await;
    assert_eq!(newest.lineage, head.lineage);
    assert_eq!(entries.iter().map(|entry| entry.position.sequence).collect::<Vec<_>>(), [2, 3, 4]);
    assert_eq!(entries.iter().map(|entry| entry.event.clone()).collect::<Vec<_>>(), events);
    assert_eq!(entries[2].position, newest.position);
    // From the middle of the log, and from its end.
    let (_, rest) = ahead(&mut channel, &standing_at(&entries[0].position)).await;
    assert_eq!(rest, entries[1..]);
    assert_eq!(ahead(&mut channel, &standing_at(&newest.position)).await, (newest, vec![]));
}

#[tokio::test]
async fn a_renewal_tells_of_a_bounded_number_of_changes() {
    let (_, redis, _server) = in_redis().await;
    change(&redis, 0).await;
    let mut channel = redis.channel().await.unwrap();
    let start = resync(&mut channel, &Position { sequence: 0, chain: String::new() }).await.position;
    for slot in 0..300 {
        change(&redis, slot).await;
    }
    let (head, entries) = ahead(&mut channel, &standing_at(&start)).await;
    assert_eq!((head.position.sequence, entries.len()), (301, 256));
    let (head, rest) = ahead(&mut channel, &standing_at(&entries[255].position)).await;
    assert_eq!((rest.len(), rest.last().map(|entry| &entry.position)), (44, Some(&head.position)));
}

#[tokio::test]
async fn a_position_that_is_not_in_the_log_is_no_position() {
    let (_, redis, _server) = in_redis().await;
    for slot in 0..3 {
        change(&redis, slot).await;
    }
    let mut channel = redis.channel().await.unwrap();
    let newest = resync(&mut channel, &Position { sequence: 0, chain: String::new() }).await.position;
    let ahead_of_it = Position { sequence: 4, ..newest.clone() };
    assert_eq!(resync(&mut channel, &ahead_of_it).await.position, newest);
    for sequence in [1, 2] {
        assert_eq!(resync(&mut channel, &Position { sequence, ..newest.clone() }).await.position, newest);
    }
    let other = Position { chain: "0".repeat(40), ..newest.clone() };
    assert_eq!(resync(&mut channel, &other).await.position, newest);
    ahead(&mut channel, &standing_at(&newest)).await;
}

#[tokio::test]
async fn a_log_that_was_trimmed_says_so() {
    let server = RedisServer::start_with(&["--stream-node-max-entries", "5"]).await;
    let Ok(redis) = std::sync::Arc::try_unwrap(on_server(&server)) else { panic!("it is in use") };
    let redis = redis.with_log_length(10);
    redis.init().await.unwrap();
    let mut channel = redis.channel().await.unwrap();
    let mut positions = Vec::new();
    for slot in 0..40 {
        change(&redis, slot).await;
        positions.push(resync(&mut channel, &Position { sequence: 0, chain: String::new() }).await.position);
    }
    assert!(server.send::<usize>("XLEN tg:{tg}:log").await < 20);
    resync(&mut channel, &positions[2]).await;
    let (_, entries) = ahead(&mut channel, &standing_at(&positions[35])).await;
    assert_eq!(entries.iter().map(|entry| &entry.position).collect::<Vec<_>>(), Vec::from_iter(&positions[36..]));
    // Trimmed is not lost: whatever is behind the oldest entry should be there.
    let renewed =
        async |channel: &mut Channel, position: &Position| channel.renew(&standing_at(position)).await.unwrap();
    assert!(matches!(renewed(&mut channel, &positions[2]).await, Renewal::Resync(_)));
    let other = Position { chain: "0".repeat(40), ..positions[38].clone() };
    let later = Position { sequence: 41, ..positions[38].clone() };
    for gone in [&other, &later] {
        assert!(matches!(renewed(&mut channel, gone).await, Renewal::Gone(_)), "{gone:?}");
    }
}

#[tokio::test]
async fn a_log_that_does_not_end_with_the_head_is_believed_by_nobody() {
    let (_, redis, server) = in_redis().await;
    for slot in 0..3 {
        change(&redis, slot).await;
    }
    let mut channel = redis.channel().await.unwrap();
    let newest = resync(&mut channel, &Position { sequence: 0, chain: String::new() }).await;
    for (harm, log) in [("XDEL tg:{tg}:log 3-0", 2), ("DEL tg:{tg}:log", 0)] {
        server.send::<u64>(harm).await;
        for position in [Position { sequence: 0, chain: String::new() }, newest.position.clone()] {
            let renewal = channel.renew(&standing_at(&position)).await;
            assert_eq!(renewal, Ok(Renewal::Short { head: newest.clone(), log }));
        }
        let event = Event { touched: Touched::All, ended: Vec::new() };
        let written = redis.commit(&[], &event).await;
        assert!(matches!(&written, Err(StoreError::Damaged(_))), "{written:?}");
    }
    // An operator's word makes it whole.
    let standing = redis.standing().await.unwrap();
    assert_eq!((&standing.lineage, standing.sequence, standing.log), (&newest.lineage, 3, 0));
    assert_eq!(standing.witnesses, []);
    let (lineage, sequence) = redis.accept(&standing, &row("operator")).await.unwrap();
    assert_eq!(sequence, 4);
    assert!(
        matches!(redis.accept(&standing, &row("operator")).await, Err(StoreError::Conflict(_))),
        "it is another one now"
    );
    let head = resync(&mut channel, &newest.position).await;
    assert_eq!((&head.lineage, head.position.sequence), (&lineage, 4));
    assert_ne!(lineage, newest.lineage);
    assert_eq!(change(&redis, 7).await, 5);
    let (_, entries) = ahead(&mut channel, &standing_at(&head.position)).await;
    assert_eq!(entries.len(), 1);
}

#[tokio::test]
async fn who_misses_something_says_so_in_the_store() {
    let (_, redis, _server) = in_redis().await;
    change(&redis, 1).await;
    let mut channel = redis.channel().await.unwrap();
    channel.misses(vec!["user ada disabled".to_owned()], None);
    let position = Position { sequence: 7, chain: "0".repeat(40) };
    let sealed = Member { state: MemberState::Sealed, ..standing_at(&position) };
    assert!(matches!(channel.renew(&sealed).await, Ok(Renewal::Gone(_))));
    let witnesses = redis.standing().await.unwrap().witnesses;
    assert_eq!(witnesses.len(), 1);
    assert_eq!((&*witnesses[0].name, witnesses[0].known), ("host-of-a", 7));
    assert_eq!(witnesses[0].missed, ["user ada disabled"]);
}

#[tokio::test]
async fn numbers_that_a_promoted_standby_used_again_are_seen_through() {
    let primary = RedisServer::start().await;
    let redis = on_server(&primary);
    redis.init().await.unwrap();
    let standby = RedisServer::start_with(&["--replicaof", "127.0.0.1", &primary.port().to_string()]).await;
    change(&redis, 1).await;
    change(&redis, 2).await;
    let has = async |count: usize| standby.send::<usize>("XLEN tg:{tg}:log").await == count;
    wait_for(async || has(2).await).await;
    let mut channel = redis.channel().await.unwrap();
    let common = resync(&mut channel, &Position { sequence: 0, chain: String::new() }).await;
    standby.send::<()>("REPLICAOF NO ONE").await;
    change(&redis, 3).await;
    let (lost, _) = ahead(&mut channel, &standing_at(&common.position)).await;

    // The standby never heard of change 3, and makes another one.
    let promoted = on_server(&standby);
    let mut channel = promoted.channel().await.unwrap();
    resync(&mut channel, &lost.position).await;
    assert_eq!(change(&promoted, 4).await, lost.position.sequence);
    let head = resync(&mut channel, &lost.position).await;
    assert_eq!((head.lineage, head.position.sequence), (lost.lineage, 3));
    assert_ne!(head.position.chain, lost.position.chain);
    change(&promoted, 5).await;
    resync(&mut channel, &lost.position).await;
    let (_, entries) = ahead(&mut channel, &standing_at(&common.position)).await;
    assert_eq!(entries.len(), 2);
}

#[tokio::test]
async fn two_stores_with_the_same_changes_are_told_apart() {
    let mut heads = Vec::new();
    for _ in 0..2 {
        let (_, redis, _server) = in_redis().await;
        change(&redis, 1).await;
        let mut channel = redis.channel().await.unwrap();
        heads.push(resync(&mut channel, &Position { sequence: 0, chain: String::new() }).await);
    }
    assert_ne!(heads[0].lineage, heads[1].lineage);
    assert_ne!(heads[0].position.chain, heads[1].position.chain);
}

#[tokio::test]
async fn an_emptied_server_says_that_it_is_lost() {
    let (_, redis, server) = in_redis().await;
    let mut channel = redis.channel().await.unwrap();
    ahead(&mut channel, &member("a")).await;
    server.send::<()>("FLUSHALL").await;
    assert_eq!(channel.renew(&member("a")).await, Ok(Renewal::Lost));
    assert!(matches!(channel.members().await, Err(StoreError::Unavailable(_))));
    assert_eq!(server.send::<u64>("DBSIZE").await, 0);
}

#[tokio::test]
async fn the_bell_rings_with_a_change_and_stops_by_itself() {
    let (_, redis, _server) = in_redis().await;
    let mut channel = redis.channel().await.unwrap();
    let began = Instant::now();
    channel.bell(0, Duration::from_millis(30)).await.unwrap();
    assert!(began.elapsed() >= Duration::from_millis(25));
    let bell = tokio::spawn(async move {
        channel.bell(0, Duration::from_secs(30)).await.unwrap();
        channel
    });
    assert_eq!(write(&redis, vec![]).await, Ok(1));
    let mut channel = tokio::time::timeout(Duration::from_secs(10), bell).await.unwrap().unwrap();
    // What has happened already rings at once.
    let again = channel.bell(0, Duration::from_secs(30));
    tokio::time::timeout(Duration::from_secs(10), again).await.unwrap().unwrap();
}

#[tokio::test]
async fn members_come_go_and_are_forgotten() {
    let (_, redis, server) = in_redis().await;
    let mut channel = redis.channel().await.unwrap();
    let attached = Member { state: MemberState::Attached, beat: 7, ..member("b") };
    ahead(&mut channel, &member("a")).await;
    ahead(&mut channel, &attached).await;
    assert_eq!(channel.members().await.unwrap(), [member("a"), attached.clone()]);
    channel.prune("b", 6).await.unwrap();
    channel.prune("c", 1).await.unwrap();
    assert_eq!(channel.members().await.unwrap().len(), 2, "it has been heard of since");
    channel.prune("b", 7).await.unwrap();
    assert_eq!(channel.members().await.unwrap(), [member("a")]);
    channel.leave("a").await.unwrap();
    channel.leave("a").await.unwrap();
    assert!(channel.members().await.unwrap().is_empty());

    // Of another version, and of nobody knows what: it is there, and has confirmed nothing.
    server
        .send::<u64>(r#"HSET tg:{tg}:members n {"name":"new","seq":4,"h":"x","beat":2,"state":"dancing","more":[1]}"#)
        .await;
    server.send::<u64>("HSET tg:{tg}:members z ?").await;
    let members = channel.members().await.unwrap();
    assert_eq!((members[0].id.as_str(), members[0].position.sequence), ("z", 0));
    assert_eq!((members[1].position.sequence, members[1].beat, members[1].state), (4, 2, MemberState::Detached));
    channel.prune("z", 0).await.unwrap();
    assert_eq!(channel.members().await.unwrap().len(), 1);
}

/// One of each kind.
fn every_end() -> Vec<Ended> {
    let session = EndedSession { id: "s-1".to_owned(), user: "ann".to_owned(), ended_at: at(2), expires_at: at(3) };
    vec![
        Ended::Key { digest: key(1).digest, at: at(9) },
        Ended::Session(session),
        Ended::of_user(&User { sessions: 7, disabled: true, ..user("ann") }),
        Ended::of_user(&User { created_at: at(8), deleted: true, ..user("bob") }),
        Ended::of_project(&project("acme", ProjectState::Deleted)),
        Ended::of_resource(&resource("workload", "chat", "acme")),
    ]
}

#[tokio::test]
async fn what_was_acknowledged_must_be_there_by_its_hash() {
    let (_, redis, server) = in_redis().await;
    change(&redis, 1).await;
    let mut channel = redis.channel().await.unwrap();
    let head = resync(&mut channel, &Position::default()).await;
    let before = head.position.clone();
    assert_eq!(redis.acknowledged(&head.lineage), Some(before.clone()));
    change(&redis, 2).await;
    let made = redis.acknowledged(&head.lineage).unwrap();
    assert_eq!(made.sequence, 2);
    // Somebody else gives the number again, with something else.
    let script = "redis.call('DEL', KEYS[2]) for number = 1, 3 do \
                  local h = number == 1 and ARGV[1] or 'other' .. number \
                  redis.call('XADD', KEYS[2], number .. '-0', 'h', h, 'p', '\\0') end \
                  return redis.call('HSET', KEYS[1], 'seq', '3', 'h', 'other3')";
    let mut command = redis::cmd("EVAL");
    command.arg(script).arg(2).arg("tg:{tg}:head").arg("tg:{tg}:log").arg(&before.chain);
    let _: u64 = command.query_async(&mut server.connection().await).await.unwrap();
    let at = standing_at(&before);
    channel.expects(Some(made));
    assert!(matches!(channel.renew(&at).await, Ok(Renewal::Gone(_))));
}

#[tokio::test]
async fn one_that_misses_something_for_good_tells_all() {
    let (_, redis, _server) = in_redis().await;
    change(&redis, 1).await;
    let mut channel = redis.channel().await.unwrap();
    let head = resync(&mut channel, &Position::default()).await;
    let here = standing_at(&head.position);
    let gone = Position { sequence: 9, chain: "9".repeat(40) };
    let knows = Member { id: "b".to_owned(), state: MemberState::Sealed, ..standing_at(&gone) };
    let mut other = redis.channel().await.unwrap();
    other.renew(&knows).await.unwrap();
    ahead(&mut channel, &here).await;
    let refused = |lineage: &str| {
        let known = Head { lineage: head.lineage.clone(), position: gone.clone() };
        Some(Refused { lineage: lineage.to_owned(), known })
    };
    // What is there is another one than was refused.
    other.misses(Vec::new(), refused("another"));
    other.renew(&knows).await.unwrap();
    ahead(&mut channel, &here).await;
    other.misses(Vec::new(), refused(&head.lineage));
    assert!(matches!(other.renew(&knows).await, Ok(Renewal::Gone(_))));
    for member in [&here, &member("newcomer")] {
        assert_eq!(channel.renew(member).await, Ok(Renewal::Missed { head: head.clone(), known: 9 }));
    }
    let event = Event { touched: Touched::All, ended: Vec::new() };
    assert!(matches!(redis.commit(&[], &event).await, Err(StoreError::Unavailable(_))));
    let standing = redis.standing().await.unwrap();
    assert_eq!(standing.missed, 9);
    let (lineage, _) = redis.accept(&standing, &row("operator")).await.unwrap();
    // Who has not heard of that yet does not refuse the one that was accepted.
    other.renew(&knows).await.unwrap();
    assert!(matches!(channel.renew(&here).await, Ok(Renewal::Resync(head)) if head.lineage == lineage));
    redis.commit(&[], &event).await.unwrap();
}

#[tokio::test]
async fn an_acceptance_is_of_what_was_seen_and_forgets_those_that_refused() {
    let (_, redis, server) = in_redis().await;
    change(&redis, 1).await;
    let mut channel = redis.channel().await.unwrap();
    let head = resync(&mut channel, &Position::default()).await;
    ahead(&mut channel, &standing_at(&head.position)).await;
    let gone = Position { sequence: 9, chain: "9".repeat(40) };
    let sealed = Member { id: "b".to_owned(), state: MemberState::Sealed, ..standing_at(&gone) };
    assert!(matches!(channel.renew(&sealed).await, Ok(Renewal::Gone(_))));
    let seen = redis.standing().await.unwrap();
    assert_eq!(seen.chain, head.position.chain);
    let other = StoreState { chain: gone.chain.clone(), ..seen.clone() };
    assert!(matches!(redis.accept(&other, &row("operator")).await, Err(StoreError::Conflict(_))), "another store");
    redis.accept(&seen, &row("operator")).await.unwrap();
    let listing = channel.list().await.unwrap();
    assert_eq!(listing.members.iter().map(|member| &*member.id).collect::<Vec<_>>(), ["a"]);
    assert_eq!((listing.unlisted, server.send::<u64>("HGET tg:{tg}:head members").await), (None, 1));
}

#[tokio::test]
async fn a_list_of_members_that_was_lost_is_noticed() {
    let (_, redis, server) = in_redis().await;
    let mut channel = redis.channel().await.unwrap();
    let [graced, other, third] = ["a", "b", "c"].map(|id| Member { grace: Duration::ZERO, ..member(id) });
    let graced = Member { grace: Duration::from_secs(30), ..graced };
    for member in [&graced, &other, &third, &graced, &other] {
        ahead(&mut channel, member).await;
    }
    // Who leaves or is forgotten is not missed.
    channel.leave("b").await.unwrap();
    channel.leave("b").await.unwrap();
    channel.prune("c", 1).await.unwrap();
    let listing = channel.list().await.unwrap();
    assert_eq!((listing.members.len(), listing.unlisted), (1, None));

    server.send::<u64>("DEL tg:{tg}:members").await;
    let unlisted = channel.list().await.unwrap().unlisted.unwrap();
    assert_eq!((unlisted.count, unlisted.grace), (1, graced.grace));
    let longest = graced.grace + FENCE;
    assert!(unlisted.still <= longest && unlisted.still > longest - Duration::from_secs(10), "{unlisted:?}");
    // Who comes again, or anew, is not taken for the one that is missing.
    ahead(&mut channel, &other).await;
    assert_eq!(channel.list().await.unwrap().unlisted.map(|unlisted| unlisted.count), Some(1));
    // Another one was lost since.
    server.send::<u64>("DEL tg:{tg}:members").await;
    channel.recount(1).await.unwrap();
    assert_eq!(channel.list().await.unwrap().unlisted.map(|unlisted| unlisted.count), Some(2));
    channel.recount(2).await.unwrap();
    assert_eq!(channel.list().await.unwrap().unlisted, None);
}

#[tokio::test]
async fn who_is_listed_prolongs_no_grace_of_those_that_are_not() {
    let (_, redis, server) = in_redis().await;
    let mut channel = redis.channel().await.unwrap();
    let graced = Member { grace: Duration::from_millis(100), ..member("a") };
    ahead(&mut channel, &graced).await;
    server.send::<u64>("DEL tg:{tg}:members").await;
    // Seen by the renewal of whoever is not on the list any more, before somebody asks for it.
    let since = Instant::now();
    ahead(&mut channel, &graced).await;
    assert_eq!(server.send::<u64>("HEXISTS tg:{tg}:head lost").await, 1);
    while {
        ahead(&mut channel, &graced).await;
        channel.list().await.unwrap().unlisted.is_none_or(|unlisted| !unlisted.still.is_zero())
    } {
        assert!(since.elapsed() < Duration::from_secs(10), "it is never over");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(since.elapsed() >= Duration::from_millis(1_000), "{:?}", since.elapsed());
    // What is lost then counts from then on.
    server.send::<u64>("DEL tg:{tg}:members").await;
    let unlisted = channel.list().await.unwrap().unlisted.unwrap();
    assert!(unlisted.count == 2 && !unlisted.still.is_zero(), "{unlisted:?}");
    channel.recount(2).await.unwrap();
    assert_eq!(server.send::<u64>("HEXISTS tg:{tg}:head lost").await, 0);
}

#[tokio::test]
async fn a_store_of_the_format_before_counts_no_members() {
    let (_, redis, server) = in_redis().await;
    server.send::<u64>("HSET tg:{tg}:head format 1").await;
    let mut channel = redis.channel().await.unwrap();
    ahead(&mut channel, &member("a")).await;
    server.send::<u64>("DEL tg:{tg}:members").await;
    assert_eq!(channel.list().await.unwrap().unlisted, None);
    assert_eq!(server.send::<u64>("HLEN tg:{tg}:head").await, 4);
    // From the upgrade on those that are listed are counted.
    ahead(&mut channel, &member("a")).await;
    server.send::<u64>("HSET tg:{tg}:head format 3").await;
    ahead(&mut channel, &member("b")).await;
    assert_eq!(server.send::<u64>("HGET tg:{tg}:head members").await, 2);
}
