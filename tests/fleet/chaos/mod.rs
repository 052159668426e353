//! What a fleet does while its store, its network and its own processes fail, with real `redis-server` processes. Each
//! experiment checks all the time, and counts every allow of a revoked key and every refusal of a good one.
//!
//! A short form of each runs with the other tests. `make chaos` (`TOLLGATE_CHAOS=1`) runs the full ones, each of which writes its
//! row to `target/chaos`.

mod crash;
mod cut_off;
mod floods;
pub mod house;
mod killed;
pub mod load;
pub mod process;
mod propagation;
pub mod proxy;
mod row;
#[path = "../../support/servers.rs"]
mod servers;
mod shipped;
#[path = "../../support/shipped.rs"]
mod shipped_files;
mod store;

use row::{Row, Scale};

macro_rules! experiments {
    ($($name:ident = $run:path;)*) => {
        $(#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
        async fn $name() {
            let scale = Scale::asked();
            let row: Row = $run(scale).await;
            row.conclude(scale);
        })*
    };
}

experiments! {
    propagation = propagation::run;
    channel_killed = store::channel_killed;
    redis_stopped = store::redis_stopped;
    redis_killed = crash::redis_killed;
    sentinel_failover = crash::sentinel_failover;
    cluster_master_killed = crash::cluster_master_killed;
    cluster_failover = crash::cluster_failover;
    shipped_redis_restarted = shipped::redis_restarted;
    shipped_everything_restarted = shipped::everything_restarted;
    shipped_tail_lost = shipped::tail_lost;
    shipped_snapshot_only = shipped::snapshot_only;
    shipped_older_copy = shipped::older_copy;
    shipped_two_from_one_folder = shipped::two_from_one_folder;
    flushall = store::flushall;
    revocation_undone = store::revocation_undone;
    memory_full = store::memory_full;
    tollgate_stopped = cut_off::tollgate_stopped;
    both_stopped = cut_off::both_stopped;
    administrator_killed = killed::administrator_killed;
    replica_cut_off = cut_off::replica_cut_off;
    replica_dropped = cut_off::replica_dropped;
    expiring_at_once = floods::expiring_at_once;
    random_keys = floods::random_keys;
}
