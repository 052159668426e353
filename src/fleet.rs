//! This replica's place among the others: a thread that follows the store's log and keeps the lease, and what it can be asked.
//! Never answers a check, and never waits for one.

mod driver;
mod figures;
mod roll;

use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;

use crate::clock::Clock;
use crate::domain::change::Ended;
use crate::domain::fleet::Member;
use crate::domain::time::Moment;
use crate::revocation::channel::{Identity, Standing};
use crate::revocation::stamps::Stamps;
use crate::revocation::sticky::Sticky;
use crate::revocation::wait::{Report, Wait};
use crate::store::redis::Redis;
use driver::{Driver, Ending};

pub use figures::Figures;

/// How long a writer waits for its own change to come back by the log.
const HEARD: Duration = Duration::from_millis(250);

/// How long a person waits for the list of members.
const LISTED: Duration = Duration::from_secs(2);

/// Between a panic of the thread and its next try.
const BREATH: Duration = Duration::from_millis(100);

/// What a place in the fleet is made of.
#[derive(Clone, Debug)]
pub struct Parts {
    pub redis: Arc<Redis>,
    pub stamps: Arc<Stamps>,
    pub sticky: Arc<Sticky>,
    pub clock: Clock,
    pub identity: Identity,
    /// Takes what is to be ended again, because the store's history may have lost it or a load said that it stands.
    pub reconcile: mpsc::Sender<Vec<Ended>>,
}

/// What is asked of the thread.
#[derive(Debug)]
enum Request {
    Wait { wait: Wait, reply: oneshot::Sender<Waited> },
    View { reply: oneshot::Sender<View> },
    Leave { reply: oneshot::Sender<()> },
}

/// What is seen of the thread from outside.
#[derive(Debug)]
struct Shared {
    own: watch::Sender<Own>,
    figures: Figures,
}

/// How this replica stands.
#[derive(Clone, Debug)]
pub struct Own {
    pub member: Member,
    pub standing: Standing,
    /// The newest change of the store that it has heard of, be it not applied yet.
    pub head: u64,
}

/// The fleet as this replica sees it.
#[derive(Clone, Debug)]
pub struct View {
    pub own: Own,
    pub members: Vec<Seen>,
}

/// A member, and since when its last beat has been known here.
#[derive(Clone, Debug)]
pub struct Seen {
    pub member: Member,
    /// How many changes it has not confirmed.
    pub behind: u64,
    /// `None`: it was listed for the first time, and nobody can tell.
    pub silent: Option<Duration>,
}

/// How a wait ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Waited {
    Done(Report),
    /// The store went over to another history: the change is to be made again.
    StartOver,
    /// The store could not be asked in time, so nothing is known.
    Unknown,
}

/// The thread, and what it can be asked. It leaves the fleet when this is dropped.
pub struct Fleet {
    shared: Arc<Shared>,
    own: watch::Receiver<Own>,
    requests: mpsc::UnboundedSender<Request>,
    stamps: Arc<Stamps>,
    clock: Clock,
}

impl Fleet {
    /// Begins to follow the log. Returns at once; the first lease follows.
    ///
    /// # Errors
    /// If there can be no thread.
    pub fn start(parts: Parts) -> io::Result<Self> {
        let (stamps, clock) = (Arc::clone(&parts.stamps), parts.clock.clone());
        let member = driver::channel(&parts, 0).own().clone();
        let (sender, own) = watch::channel(Own { member, standing: Standing::default(), head: 0 });
        let shared = Arc::new(Shared { own: sender, figures: Figures::default() });
        let (requests, asked) = mpsc::unbounded_channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let thread = thread::Builder::new().name("tollgate-fleet".to_owned());
        thread.spawn({
            let shared = Arc::clone(&shared);
            move || follow(&runtime, &parts, &shared, asked)
        })?;
        Ok(Self { shared, own, requests, stamps, clock })
    }

    pub fn figures(&self) -> &Figures {
        &self.shared.figures
    }

    pub fn own(&self) -> Own {
        self.own.borrow().clone()
    }

    /// To be read before a change is made that is waited for.
    pub fn lineages(&self) -> u64 {
        self.own.borrow().standing.lineages
    }

    /// Waits until this replica has applied its own change, but not for long: whether it has.
    pub async fn heard(&self, sequence: u64) -> bool {
        let mut own = self.own.clone();
        let heard = own.wait_for(|own| own.standing.applied >= sequence);
        matches!(timeout(HEARD, heard).await, Ok(Ok(_)))
    }

    /// Waits until nobody can act against change number `sequence` any more, which was acknowledged just now, and made when
    /// [`Fleet::lineages`] was this.
    pub async fn wait(&self, sequence: u64, lineages: u64, limit: Duration) -> Waited {
        let (reply, waited) = oneshot::channel();
        let wait = Wait::new(sequence, lineages, self.clock.moment());
        if self.requests.send(Request::Wait { wait, reply }).is_err() {
            return Waited::Unknown;
        }
        match timeout(limit, waited).await {
            Ok(Ok(waited)) => waited,
            Ok(Err(_)) | Err(_) => Waited::Unknown,
        }
    }

    /// Everybody in the fleet, by name; `None` if the store cannot be asked.
    pub async fn view(&self) -> Option<View> {
        let (reply, view) = oneshot::channel();
        self.requests.send(Request::View { reply }).ok()?;
        timeout(LISTED, view).await.ok()?.ok()
    }

    /// Gives up the lease, and then the place on the list. Only when nobody asks any more.
    pub async fn leave(&self) {
        self.stamps.release();
        let (reply, left) = oneshot::channel();
        if self.requests.send(Request::Leave { reply }).is_ok() {
            // Who cannot say that it leaves is taken off the list by the others, in time.
            let _ = timeout(LISTED, left).await;
        }
    }

    /// The time since the last lease was granted; `None` before the first.
    pub fn since_lease(&self) -> Option<Duration> {
        let granted = self.shared.figures.leased_at();
        (granted != Moment::default()).then(|| self.clock.moment().since(granted))
    }
}

/// The whole life of the thread. After a panic it begins anew, as a connection does; the lease has ended by itself.
fn follow(
    runtime: &tokio::runtime::Runtime,
    parts: &Parts,
    shared: &Arc<Shared>,
    mut asked: mpsc::UnboundedReceiver<Request>,
) {
    loop {
        let lineages = shared.own.borrow().standing.lineages + 1;
        let life = || runtime.block_on(Driver::new(parts, shared, lineages).run(&mut asked));
        match catch_unwind(AssertUnwindSafe(life)) {
            Ok(Ending::Left) => return,
            Err(_) => {
                shared.figures.note_panic();
                tracing::error!("following the store's log panicked and is started again; please report this");
                thread::sleep(BREATH);
            }
        }
    }
}

impl fmt::Debug for Fleet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fleet({:?})", self.own.borrow().member.state)
    }
}
