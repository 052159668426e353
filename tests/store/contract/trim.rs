//! What every backend must do when the audit log loses its oldest rows.

use tollgate::domain::record::AuditEntry;
use tollgate::store::{AuditQuery, Store, Write};

use crate::support::{Apply, at, row};

async fn add(store: &Store, time: u64, project: &str) {
    let row = AuditEntry { at: at(time), project: Some(project.to_owned()), ..row(&time.to_string()) };
    store.apply(vec![Write::Audit(row)]).await.unwrap();
}

async fn numbers(store: &Store, project: Option<&str>) -> Vec<u64> {
    let query = AuditQuery { project: project.map(str::to_owned), limit: 99, ..AuditQuery::default() };
    let mut numbers: Vec<u64> = store.audit(query).await.unwrap().rows.into_iter().map(|row| row.sequence).collect();
    numbers.reverse();
    numbers
}

async fn the_oldest_rows_go_and_the_numbers_go_on(store: Store) {
    let trim = async |before, most| store.trim_audit(at(before), most).await.unwrap();
    assert_eq!(trim(1_000, 10).await, 0, "there is none");
    for time in 1..=20 {
        add(&store, time, if time % 2 == 0 { "even" } else { "odd" }).await;
    }
    assert_eq!(trim(1, 10).await, 0, "none is older");
    assert_eq!([trim(9, 5).await, trim(9, 5).await, trim(9, 5).await], [5, 3, 0]);
    assert_eq!(numbers(&store, None).await, (9..=20).collect::<Vec<_>>());
    assert_eq!(numbers(&store, Some("even")).await, [10, 12, 14, 16, 18, 20]);
    assert_eq!(numbers(&store, Some("odd")).await, [9, 11, 13, 15, 17, 19]);
    assert_eq!([trim(1_000, 100).await, trim(1_000, 100).await], [11, 0], "the newest row stays");
    assert_eq!((numbers(&store, None).await, numbers(&store, Some("odd")).await), (vec![20], vec![]));
    add(&store, 21, "odd").await;
    assert_eq!(numbers(&store, None).await, [20, 21]);
    assert_eq!(trim(1_000, 1).await, 1);
    add(&store, 5, "odd").await;
    // A clock that was set back: what comes behind a younger row waits for it.
    assert_eq!(trim(10, 9).await, 0);
    assert_eq!(numbers(&store, Some("odd")).await, [21, 22]);
}

for_every_backend!(the_oldest_rows_go_and_the_numbers_go_on);
