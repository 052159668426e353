//! Whoever revokes is killed in the middle of it, and somebody else does it again. Nothing may stay half done.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tokio::time::sleep;

use super::house::{House, Replica, all_allow, all_deny};
use super::load::{Key, Tally};
use super::process::Process;
use super::row::{Row, Scale};

/// Says where the log does not follow from its beginning, or that it does.
const FOLLOWS: &str = "
local head, h, last = redis.call('HMGET', KEYS[1], 'id', 'seq', 'h'), '', 0
for number, entry in ipairs(redis.call('XRANGE', KEYS[2], '-', '+')) do
  h = redis.sha1hex(head[1] .. ':' .. h .. ':' .. number .. ':' .. entry[2][4])
  if entry[1] ~= number .. '-0' or entry[2][2] ~= h then return 'broken at ' .. entry[1] end
  last = number
end
if head[2] ~= tostring(last) or head[3] ~= h then return 'the head is not its end' end
return 'it holds'";

/// What is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Victim {
    CommandLine,
    Server,
}

pub async fn administrator_killed(scale: Scale) -> Row {
    let rounds = scale.of(4, 60);
    let house = House::with(&[]).await;
    let maker = house.replica().await;
    let other = Arc::new(house.process());
    let mut killed = Arc::new(house.process());
    let keys = maker.make_keys(1 + 2 * rounds).await;
    let all = |killed: &Arc<Process>| {
        [Replica::Here(maker.clone()), Replica::Process(Arc::clone(&other)), Replica::Process(Arc::clone(killed))]
    };
    all_allow(&all(&killed), &keys[0]).await;
    let takes = undisturbed(&killed, &keys[0]).await;
    let (mut tally, mut recorded, mut refused) = (Tally::default(), 0, Vec::new());
    // Servers last: whoever waits then has to wait for those that are silent, too.
    let victims = [Victim::CommandLine, Victim::Server].into_iter().flat_map(|victim| vec![victim; rounds]);
    for (turn, (key, victim)) in keys[1..].iter().zip(victims).enumerate() {
        all_allow(&all(&killed), key).await;
        let before = sequence(&house);
        key.begin_to_end();
        let mut command = revoke(&killed.admin(), key, &[]);
        // From the first moment to a little after the last one.
        sleep(takes * u32::try_from(1 + turn % rounds).unwrap() / u32::try_from(rounds).unwrap()).await;
        if victim == Victim::Server {
            killed.signal(Signal::KILL);
        } else {
            command.kill().unwrap();
        }
        tokio::task::block_in_place(|| command.wait()).unwrap();
        let half = sequence(&house);
        recorded += usize::from(half > before);

        let again = revoke(&other.admin(), key, &["--wait"]);
        let done = tokio::task::block_in_place(|| again.wait_with_output()).unwrap();
        key.bar_from(Instant::now());
        if !done.status.success() {
            refused.push(String::from_utf8_lossy(&done.stderr).into_owned());
        }
        if sequence(&house) == half {
            refused.push("nothing was appended".to_owned());
        }
        for replica in &all(&killed) {
            tally.check(replica, key).await;
        }
        if victim == Victim::Server {
            killed = Arc::new(house.process());
        }
        all_deny(&all(&killed), key).await;
    }
    let log: String = house.server.command(&["EVAL", FOLLOWS, "2", "tg:{tg}:head", "tg:{tg}:log"]);
    Row::of("administrator-killed", &tally)
        .demand(refused.is_empty(), format!("it was not done again: {refused:?}"))
        .demand(log == "it holds", format!("the log: {log}"))
        .note(format!("{rounds} times the command line and {rounds} times the server; {recorded} had been recorded"))
}

/// How long a revocation takes that nobody ends.
async fn undisturbed(server: &Process, key: &Key) -> Duration {
    key.begin_to_end();
    let begun = Instant::now();
    let done = revoke(&server.admin(), key, &[]).wait_with_output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    begun.elapsed()
}

/// The command line, begun.
fn revoke(socket: &Path, key: &Key, how: &[&str]) -> Child {
    Command::new(env!("CARGO_BIN_EXE_tollgate"))
        .env_clear()
        .args(["keys", "revoke", &key.id.to_string(), "--socket"])
        .arg(socket)
        .args(how)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// How many changes there were.
fn sequence(house: &House) -> u64 {
    house.server.command(&["HGET", "tg:{tg}:head", "seq"])
}
