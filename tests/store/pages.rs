//! What a page of a list costs: as many rows as it has, however much else there is. Counted in rows that the store looks at, as
//! a time would say more about the machine.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tollgate::domain::record::{AuditEntry, User};
use tollgate::store::embedded::Embedded;
use tollgate::store::format::Format;
use tollgate::store::{AuditQuery, AuditRows, KeyQuery, Store, UserQuery, Write};

use crate::redis_server::RedisServer;
use crate::signed;
use crate::support::{Apply, at, id, in_redis, key_of, row, user};

/// Rows of a page.
const PAGE: usize = 10;

/// Ten of everything that is asked for, in front of, among and behind so much of everything else.
async fn fill(store: &Store, others: u64) {
    let acts = (0..others + 20).map(|n| {
        let is_wanted = n % (others / PAGE as u64 + 2) == 0;
        let name = format!("user-{n:06}");
        let plane = if is_wanted { "control" } else { "data" };
        let gone = User { deleted: true, version: 2, ..user(&name) };
        let of_ann = AuditEntry { actor: "user:ann".to_owned(), ..row(&name) };
        let mut acts = vec![Write::CreateKey(key_of(n, plane, "acme")), Write::CreateUser(user(&name))];
        // The others are tombstones, and other people's rows.
        acts.extend((!is_wanted).then_some(Write::UpdateUser(gone)));
        acts.push(Write::Audit(if is_wanted { of_ann } else { row(&name) }));
        acts
    });
    let acts: Vec<Vec<Write>> = acts.collect();
    for batch in acts.chunks(100) {
        store.apply(batch.concat()).await.unwrap();
    }
}

/// A page of each list, by its names.
async fn pages(store: &Store, limit: usize) -> Vec<Vec<String>> {
    let of_both =
        |after| KeyQuery { project: Some("acme".to_owned()), plane: Some("control".to_owned()), after, limit };
    let of_ann = |project: Option<&str>, before| AuditQuery {
        actor: Some("user:ann".to_owned()),
        project: project.map(str::to_owned),
        before,
        limit,
        ..AuditQuery::default()
    };
    let mut pages = Vec::new();
    for query in [of_both(None), of_both(Some(id(1)))] {
        pages.push(store.keys(query).await.unwrap().into_iter().map(|key| key.id.to_string()).collect());
    }
    for after in [None, Some("user-000001".to_owned())] {
        let query = UserQuery { project: None, after, limit };
        pages.push(store.users(query).await.unwrap().into_iter().map(|user| user.name).collect());
    }
    let newest = store.audit(of_ann(None, None)).await.unwrap().rows.first().unwrap().sequence;
    for query in [of_ann(None, None), of_ann(Some("acme"), None), of_ann(None, Some(newest))] {
        pages.push(store.audit(query).await.unwrap().rows.into_iter().map(|row| row.target).collect());
    }
    assert!(store.audit(of_ann(Some("beta"), None)).await.unwrap().rows.is_empty());
    pages
}

fn in_memory() -> (Store, Arc<Embedded>) {
    let embedded = Arc::new(Embedded::in_memory().unwrap());
    (Store::Embedded(Arc::clone(&embedded)), embedded)
}

#[tokio::test]
async fn a_page_of_a_file_costs_what_it_holds() {
    let mut costs = Vec::new();
    for others in [100, 3_000] {
        let (store, embedded) = in_memory();
        fill(&store, others).await;
        let before = embedded.looked_at();
        let pages = pages(&store, PAGE).await;
        assert!(pages.iter().all(|page| (PAGE - 1..=PAGE).contains(&page.len())), "{pages:?}");
        costs.push(embedded.looked_at() - before);
    }
    assert!(costs[1] <= costs[0] + PAGE as u64, "rows looked at for few and for many: {costs:?}");
}

/// How often a server has looked something up or read a part of a log.
async fn looked_at(server: &RedisServer) -> u64 {
    let stats: String = server.send("INFO commandstats").await;
    let calls = |line: &str| {
        let (name, rest) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
        let counts = ["get", "xrange", "xrevrange"].contains(&name);
        counts.then(|| rest.split(',').next()?.parse::<u64>().ok())?
    };
    stats.lines().filter_map(calls).sum()
}

#[tokio::test]
async fn a_page_in_redis_costs_what_it_holds() {
    let mut costs = Vec::new();
    for others in [100, 3_000] {
        let (store, _, server) = in_redis().await;
        fill(&store, others).await;
        let before = looked_at(&server).await;
        let pages = pages(&store, PAGE).await;
        assert!(pages.iter().all(|page| (PAGE - 1..=PAGE).contains(&page.len())), "{pages:?}");
        costs.push(looked_at(&server).await - before);
    }
    assert!(costs[0] > 0 && costs[1] <= costs[0] + PAGE as u64, "looked up for few and for many: {costs:?}");
}

/// Of a log with many rows of old, and some that a wrong clock has dated back.
#[tokio::test]
async fn a_search_since_a_time_ends_where_all_is_older() {
    const DAY: u64 = 24 * 3600 * 1000;
    let (file, embedded) = in_memory();
    let (redis, _, server) = in_redis().await;
    for store in [&file, &redis] {
        for (count, day, target) in [(2_000, 1, "old"), (5, 10, "new"), (400, 1, "dated back"), (5, 10, "new")] {
            let of_day = AuditEntry { at: at(day * DAY), ..row(target) };
            store.apply(vec![Write::Audit(of_day); count]).await.unwrap();
        }
    }
    let since = |day: u64| AuditQuery { since: Some(at(day * DAY)), limit: 1_000, ..AuditQuery::default() };
    let before = (embedded.looked_at(), looked_at(&server).await);
    for store in [&file, &redis] {
        let found = store.audit(since(9)).await.unwrap().rows;
        assert_eq!((found.len(), found.iter().all(|row| row.target == "new")), (10, true), "none is left out");
    }
    let cost = (embedded.looked_at() - before.0, looked_at(&server).await - before.1);
    assert!(cost.0 <= 410 + 500, "{cost:?}");
    assert!(cost.1 <= 2, "pages of 500: {cost:?}");
    // Who asks for a time that is not two days later may find more.
    for store in [&file, &redis] {
        assert_eq!(store.audit(AuditQuery { limit: 9_999, ..since(1) }).await.unwrap().rows.len(), 2_410);
        assert_eq!(store.audit(since(2)).await.unwrap().rows.len(), 10);
    }
}

/// All of a query, page by page, and how many pages those were.
async fn all(store: &Store, mut query: AuditQuery) -> (Vec<AuditEntry>, usize) {
    let (mut found, mut count) = (Vec::new(), 0);
    loop {
        let page = store.audit(query.clone()).await.unwrap();
        (found, count) = ([found, page.rows].concat(), count + 1);
        match page.goes_on_before {
            Some(before) => query.before = Some(before),
            None => return (found, count),
        }
    }
}

/// A page looks at so many rows that are not asked for at most, and whoever asks goes on from there.
#[tokio::test]
async fn a_page_of_rows_that_no_list_has_is_bounded() {
    let (file, embedded) = in_memory();
    let (redis, _, server) = in_redis().await;
    for store in [&file, &redis] {
        let rare = AuditEntry { act: "key.rotate".to_owned(), ..row("rare") };
        for (row, count) in [(&rare, 3), (&row("k"), 6_000), (&rare, 3), (&row("k"), 6_000)] {
            for some in vec![Write::Audit(row.clone()); count].chunks(2_000) {
                store.apply(some.to_vec()).await.unwrap();
            }
        }
    }
    let of_act = AuditQuery { act: Some("key.rotate".to_owned()), limit: PAGE, ..AuditQuery::default() };
    let of_target = AuditQuery { act: None, target: Some("rare".to_owned()), ..of_act.clone() };
    let in_project = AuditQuery { project: Some("acme".to_owned()), ..of_target.clone() };
    for query in [of_act, of_target, in_project] {
        let before = (embedded.looked_at(), looked_at(&server).await);
        for store in [&file, &redis] {
            let page = store.audit(query.clone()).await.unwrap();
            assert_eq!((page.rows.len(), page.goes_on_before), (0, Some(12_006 - 4_999)), "{query:?}");
        }
        let cost = (embedded.looked_at() - before.0, looked_at(&server).await - before.1);
        assert_eq!(cost.0, 5_000);
        assert!(query.project.is_some() || cost.1 == 10, "pages of 500: {cost:?}");
        for store in [&file, &redis] {
            let (rows, count) = all(store, query.clone()).await;
            let numbers: Vec<u64> = rows.iter().map(|row| row.sequence).collect();
            assert_eq!((&*numbers, count), (&[6_006, 6_005, 6_004, 3, 2, 1][..], 3), "{query:?}");
        }
    }
}

/// With rows that clocks have dated forward and back, as far as they are allowed to be wrong.
#[tokio::test]
async fn a_search_until_a_time_begins_where_all_is_newer() {
    const DAY: u64 = 24 * 3600 * 1000;
    let (file, embedded) = in_memory();
    let (redis, _, server) = in_redis().await;
    for store in [&file, &redis] {
        for (count, day, target) in [
            (600, 1, "old"),
            (499, 90, "dated forward"),
            (100, 1, "old"),
            (8_000, 10, "new"),
            (200, 1, "dated back"),
            (4_000, 10, "new"),
        ] {
            let of_day = AuditEntry { at: at(day * DAY), ..row(target) };
            for some in vec![Write::Audit(of_day); count].chunks(2_000) {
                store.apply(some.to_vec()).await.unwrap();
            }
        }
    }
    let until = |day: u64| AuditQuery { until: Some(at(day * DAY)), limit: PAGE, ..AuditQuery::default() };
    let before = (embedded.looked_at(), looked_at(&server).await);
    for store in [&file, &redis] {
        let page = store.audit(AuditQuery { act: Some(row("old").act), ..until(2) }).await.unwrap();
        assert_eq!(page.goes_on_before, None);
        assert!(page.rows.len() == PAGE && page.rows.iter().all(|row| row.target == "old"), "{page:?}");
    }
    let cost = (embedded.looked_at() - before.0, looked_at(&server).await - before.1);
    assert!(cost.0 <= 8 * 500, "{cost:?}");
    assert!(cost.1 <= 12, "pages of 500: {cost:?}");
    for store in [&file, &redis] {
        let (rows, _) = all(store, AuditQuery { limit: 9_999, ..until(2) }).await;
        assert!(rows.len() >= 700 && rows.iter().all(|row| row.at < at(2 * DAY)), "{}", rows.len());
        // Not two days before the others: all of them are looked at, page by page.
        let (rows, _) = all(store, AuditQuery { limit: 9_999, ..until(9) }).await;
        assert_eq!(rows.len(), 900);
        assert_eq!(store.audit(until(91)).await.unwrap().rows.len(), PAGE);
        assert_eq!(store.audit(until(0)).await.unwrap(), AuditRows::default());
        let page = store.audit(AuditQuery { before: Some(601), limit: 9_999, ..until(2) }).await.unwrap();
        assert_eq!((page.rows.len(), page.rows[0].sequence), (600, 600));
    }
}

fn open(path: &Path, format: Format) -> Arc<Embedded> {
    let meta = redb::TableDefinition::<&str, u64>::new("meta");
    drop(signed::embedded(path, Duration::ZERO).unwrap());
    let database = redb::Database::open(path).unwrap();
    let write = database.begin_write().unwrap();
    write.open_table(meta).unwrap().insert("format", format.in_file()).unwrap();
    write.commit().unwrap();
    drop(database);
    Arc::new(signed::embedded(path, Duration::ZERO).unwrap())
}

#[tokio::test]
async fn the_indexes_of_an_older_file_are_made_anew() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.redb");
    // Some of it was written when the file had the indexes, some by a Tollgate that did not know them.
    let store = Store::Embedded(open(&path, Format::Three));
    store.apply(vec![Write::CreateUser(user("user-000000-gone"))]).await.unwrap();
    drop(store);
    let store = Store::Embedded(open(&path, Format::Two));
    let gone = User { deleted: true, version: 2, ..user("user-000000-gone") };
    store.apply(vec![Write::UpdateUser(gone)]).await.unwrap();
    fill(&store, 200).await;
    let before = pages(&store, 1_000).await;
    drop(store);
    let embedded = open(&path, Format::Two);
    embedded.fill_indexes().unwrap();
    embedded.fill_indexes().unwrap();
    drop(embedded);
    let store = Store::Embedded(open(&path, Format::Three));
    assert_eq!(pages(&store, 1_000).await, before);
    assert_eq!(
        store.audit(AuditQuery { since: Some(at(0)), limit: 1_000, ..AuditQuery::default() }).await.unwrap().rows.len(),
        220
    );
}

#[tokio::test]
async fn the_lists_of_an_older_redis_are_made() {
    let (store, redis, server) = in_redis().await;
    let says = async |format: Format| {
        server.send::<u64>(&format!("HSET tg:{{tg}}:head format {}", format.in_head())).await;
    };
    says(Format::Two).await;
    fill(&store, 1_200).await;
    let before = pages(&store, 2_000).await;
    // Whoever fills them was ended in the middle, and does it again.
    says(Format::RisingToThree).await;
    redis.fill_indexes().await.unwrap();
    server.send::<u64>("DEL tg:{tg}:audit:actor:user:ann").await;
    redis.fill_indexes().await.unwrap();
    let row = AuditEntry { actor: "user:ann".to_owned(), ..row("last") };
    store.apply(vec![Write::Audit(row)]).await.unwrap();
    says(Format::Three).await;
    let mut after = pages(&store, 2_000).await;
    for (page, of) in after.iter_mut().zip(["keys", "keys", "users", "users", "rows", "rows", "older rows"]) {
        if of == "rows" {
            assert_eq!(page.remove(0), "last");
        }
        if of == "older rows" {
            // The newest one is another one now.
            page.remove(0);
        }
    }
    assert_eq!(after, before);
}
