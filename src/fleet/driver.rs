//! Follows the log of the store on a thread and connections of its own, so that checks cannot hold it up. Never grants a lease
//! by itself: the state machine in `channel.rs` of the guard says what is to be done, and this does it.

mod losses;

pub use losses::refusal;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout_at};
use tollgate_guard::channel::{Channel as Protocol, Identity, LeaseHistory, Now};
use tollgate_guard::protocol::{Head, Listing, Member, MemberState, Position, Remembered, Term};
use tollgate_guard::stamps::Stamps;
use tollgate_guard::time::Moment;
use tollgate_guard::wait::{Observation, Verdict, Wait};

use super::handle::{BELL, Ends, Fleet, Request};
use super::members::{Members, fleet_view, wait_report};
use super::position::PositionFile;
use super::report::{FleetView, Waited};
use crate::clock::Clock;
use crate::domain::change::Action;
use crate::domain::change::Endings;
use crate::domain::change::Input;
use crate::domain::change::Renewal;
use crate::store::StoreError;
use crate::store::redis::survey::Finding;
use crate::store::redis::{Channel, Redis};
use crate::tasks::{Backoff, Task};

/// How long a replica listens at most while somebody waits for the others to confirm a change.
const IMPATIENT_BELL: Duration = Duration::from_millis(10);
/// How often the list of members is looked through for those that are gone, and whether there was a failover is asked.
const LOOK_ROUND: Duration = Duration::from_secs(10);

/// What a replica brings along.
#[derive(Debug)]
pub struct Joining {
    pub redis: Arc<Redis>,
    pub stamps: Arc<Stamps>,
    pub endings: Arc<Endings>,
    pub identity: Identity,
    /// What the store's configuration guarantees, in words; looked at again with each connection.
    pub level: String,
    pub clock: Clock,
    /// Told when what was ended must be so in a new history, too.
    pub reconcile: mpsc::UnboundedSender<()>,
    /// Where a panic of the thread is counted.
    pub task: Task,
    /// What a process before this one has known, and where this one keeps what it knows.
    pub remembered: Option<Remembered>,
    pub file: Option<PositionFile>,
    /// The lineages that the store says to have had before.
    pub former: Vec<String>,
}

/// Joins. Nothing is served from a cache before the first lease.
///
/// # Errors
/// The system's, if there is no thread to be had.
pub fn start(joining: Joining) -> std::io::Result<Fleet> {
    let (fleet, ends) = Fleet::new(joining.level.clone(), joining.clock.clone());
    let protocol = Protocol::new(joining.identity.clone(), 0, joining.clock.now());
    let mut driver = Driver {
        protocol: protocol.remembering(joining.remembered.clone()).having_left(joining.former.clone()),
        term: Term::Fixed,
        term_asked: Moment::default(),
        asking_term: None,
        acknowledged: None,
        loss: None,
        noted: None,
        joining,
        ends,
        findings: Arc::default(),
        links: None,
        listening: None,
        head: None,
        members: Members::default(),
        waits: Vec::new(),
        views: Vec::new(),
        listed: None,
        looked_round: Moment::default(),
        has_complained: false,
    };
    thread::Builder::new().name("tollgate-fleet".to_owned()).spawn(move || driver.run())?;
    Ok(fleet)
}

/// The connection that is asked, and the one that rings.
struct Links {
    asked: Channel,
    bell: Option<Channel>,
}

/// A wait that somebody is in.
struct Waiting {
    wait: Wait,
    /// Nobody who lags is waited for beyond this.
    until: Moment,
    sequence: u64,
    answer: Option<oneshot::Sender<Waited>>,
}

struct Driver {
    joining: Joining,
    ends: Ends,
    /// What was found of the store's server, at the last connection.
    findings: Arc<ArcSwap<Vec<Finding>>>,
    protocol: Protocol,
    links: Option<Links>,
    /// A bell that is waited for; it gives its connection back.
    listening: Option<JoinHandle<Result<Channel, StoreError>>>,
    head: Option<Head>,
    members: Members,
    waits: Vec<Waiting>,
    views: Vec<oneshot::Sender<Result<FleetView, StoreError>>>,
    /// When the members were asked for before the renewal that is under way, and when they had been listed.
    listed: Option<(Moment, Moment)>,
    looked_round: Moment,
    has_complained: bool,
    /// By what the store may have gone back, and when that was asked.
    term: Term,
    term_asked: Moment,
    /// The same, while it is asked again.
    asking_term: Option<JoinHandle<Result<Term, StoreError>>>,
    /// The newest change that the store has acknowledged here, as it was before the last renewal was sent.
    acknowledged: Option<Position>,
    /// Why everything is refused.
    loss: Option<StoreError>,
    /// What the file was given last.
    noted: Option<Remembered>,
}

/// What ends the thread.
struct Left;

impl Driver {
    fn run(&mut self) {
        let mut pauses = Backoff::default();
        loop {
            let begun = Instant::now();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let outcome = match runtime {
                Ok(runtime) => catch_unwind(AssertUnwindSafe(|| runtime.block_on(self.follow()))),
                Err(error) => {
                    tracing::error!(%error, "the log cannot be followed: no runtime");
                    Err(Box::new(error) as _)
                }
            };
            self.links = None;
            self.listening = None;
            self.listed = None;
            if let Ok(Left) = outcome {
                return;
            }
            // No lease is granted meanwhile, so the one there is ends by itself.
            let down = self.joining.task.fell();
            // Whoever waits must see that this one knows nothing of what the one before had followed.
            let histories = self.protocol.standing().lineages + 1;
            let remembered = self.protocol.remembered();
            self.protocol = Protocol::new(self.joining.identity.clone(), histories, self.joining.clock.now())
                .remembering(remembered)
                .still_sealed(self.joining.stamps.is_sealed());
            thread::sleep(pauses.next(begun));
            drop(down);
        }
    }

    async fn follow(&mut self) -> Left {
        let mut input = self.connect().await;
        loop {
            let now = self.now();
            let actions = self.protocol.take(&now, input.unwrap_or(Input::Failed));
            input = None;
            for action in actions {
                // First, so that no load that is stamped in this history comes from the one before.
                if let Action::Adopt(head) = &action {
                    self.joining.redis.join(&head.lineage);
                }
                action.carry_out(&self.joining.stamps, &self.joining.endings);
                self.count(&action);
                match action {
                    Action::DropLoads => self.joining.redis.drop_loads(),
                    // Whoever would hear it is gone only when the process ends.
                    Action::Adopt(_) => drop(self.joining.reconcile.send(())),
                    Action::Lease(_) => {
                        self.remember();
                        self.observe();
                    }
                    Action::Connect { after } => match self.pause(after).await {
                        Ok(()) => input = self.connect().await,
                        Err(left) => return left,
                    },
                    Action::Renew { member, settle } => input = Some(self.renew(&member, settle).await),
                    Action::Listen { after } => match self.listen(after).await {
                        Ok(heard) => input = Some(heard),
                        Err(left) => return left,
                    },
                    Action::Seal(loss) => self.refuse_all(&loss),
                    Action::Tell(explained) => tracing::warn!("{explained}. What was ended is ended again"),
                    Action::Unseal => {
                        self.loss = None;
                        self.joining.redis.refuse(None);
                        tracing::warn!("the store is whole again, or was accepted: it is followed");
                    }
                    Action::Apply(_) => {}
                }
                self.publish();
            }
        }
    }

    fn now(&self) -> Now {
        let mut random = [0; 8];
        // Without chance a fleet merely returns in step.
        let _ = getrandom::fill(&mut random);
        let clock = &self.joining.clock;
        Now {
            moment: clock.moment(),
            time: clock.now(),
            random: u64::from_ne_bytes(random),
            term: self.term,
            acknowledged: self.acknowledged.as_ref().map_or(0, |place| place.sequence),
        }
    }

    /// What others in this process read.
    fn publish(&self) {
        let LeaseHistory { lineages, .. } = self.protocol.standing();
        self.ends.lineages_seen.store(lineages, Ordering::SeqCst);
        self.ends.figures.set_state(self.protocol.own().state);
        let is_forgetful = self.joining.file.as_ref().is_some_and(PositionFile::is_failing);
        self.ends.figures.is_forgetful.store(is_forgetful, Ordering::Relaxed);
        let applied = self.joining.stamps.position();
        self.ends.position.send_if_modified(|known| std::mem::replace(known, applied) != applied);
    }

    fn count(&self, action: &Action) {
        let count = match action {
            Action::Apply(_) => &self.ends.figures.events,
            Action::Lease(_) => &self.ends.figures.leases,
            Action::Adopt(_) => &self.ends.figures.resyncs,
            Action::Renew { .. } => &self.ends.figures.renewals,
            Action::Connect { .. } => &self.ends.figures.failures,
            _ => return,
        };
        count.fetch_add(1, Ordering::Relaxed);
    }

    /// Without a connection; whoever leaves meanwhile does not wait for one.
    async fn pause(&mut self, time: Duration) -> Result<(), Left> {
        self.links = None;
        self.listening = None;
        self.listed = None;
        let over = tokio::time::Instant::now() + time;
        while let Ok(request) = timeout_at(over, self.ends.requests.recv()).await {
            match request {
                Some(request) => self.accept(request).await?,
                None => return Err(self.leave().await),
            }
        }
        Ok(())
    }

    /// `None` is a failure.
    async fn connect(&mut self) -> Option<Input> {
        // Before the primary is looked for: a failover in between counts for what is found behind it.
        if let Err(error) = self.ask_term().await {
            self.complain(&error);
            refuse(&mut self.views, &error);
            return None;
        }
        let (asked, bell) = tokio::join!(self.joining.redis.channel(), self.joining.redis.channel());
        match (asked, bell) {
            (Ok(asked), Ok(bell)) => {
                self.links = Some(Links { asked, bell: Some(bell) });
                self.look_at_level();
                Some(Input::Connected)
            }
            (Err(error), _) | (_, Err(error)) => {
                self.complain(&error);
                refuse(&mut self.views, &error);
                None
            }
        }
    }

    async fn renew(&mut self, member: &Member, settle: bool) -> Input {
        self.ask_term_again();
        match self.try_renew(member, settle).await {
            Ok((sent, renewal)) => {
                self.hear_term().await;
                if self.wants_term(&renewal)
                    && let Err(error) = self.ask_term().await
                {
                    self.complain(&error);
                    return Input::Failed;
                }
                if let Renewal::Ahead { head, entries } = &renewal {
                    let reached = entries.last().map_or(member.position.sequence, |last| last.position.sequence);
                    self.ends.figures.lag.store(head.position.sequence.saturating_sub(reached), Ordering::Relaxed);
                }
                self.head = renewal.head().cloned().or(self.head.take());
                Input::Renewed { sent, renewal }
            }
            Err(error) => {
                self.complain(&error);
                Input::Failed
            }
        }
    }

    /// Once, until there is a lease again.
    fn complain(&mut self, error: &StoreError) {
        if !std::mem::replace(&mut self.has_complained, true) {
            tracing::warn!(%error, "the log of the store cannot be followed: trying again until it can");
        }
    }

    async fn try_renew(&mut self, member: &Member, settle: bool) -> Result<(Moment, Renewal), StoreError> {
        let clock = self.joining.clock.clone();
        self.acknowledged = self.protocol.lineage().and_then(|lineage| self.joining.redis.acknowledged(lineage));
        let missed = if member.state == MemberState::Sealed { self.missed() } else { Vec::new() };
        let Some(links) = &mut self.links else {
            return Err(StoreError::Unavailable("there is no connection".to_owned()));
        };
        let is_time = clock.moment().since(self.looked_round) >= LOOK_ROUND;
        let mut problem = None;
        if is_time || !self.waits.is_empty() || !self.views.is_empty() {
            let asked = clock.moment();
            match links.asked.list().await {
                Ok(Listing { members, unlisted }) => {
                    let now = clock.moment();
                    for (id, beat) in self.members.see(members, now) {
                        links.asked.prune(&id, beat).await?;
                    }
                    if let Some(missing) = self.members.miss(unlisted, now) {
                        links.asked.recount(missing).await?;
                    }
                    self.listed = Some((asked, now));
                    self.looked_round = now;
                }
                Err(error) => problem = Some(error),
            }
        }
        if member.state == MemberState::Sealed {
            links.asked.misses(missed, self.protocol.refused());
        }
        links.asked.expects(self.acknowledged.clone());
        let sent = clock.moment();
        let renewal = links.asked.renew(member).await?;
        // There is no list either where the head is lost, and then it is the renewal that must be heard.
        if let Some(problem) = problem {
            if renewal != Renewal::Lost {
                return Err(problem);
            }
            refuse(&mut self.views, &problem);
        }
        // Whatever else is answered gives nothing, and must be heard even while no replica confirms.
        if settle && matches!(renewal, Renewal::Ahead { .. }) {
            links.asked.settle().await?;
        }
        Ok((sent, renewal))
    }

    /// Until there is something to hear, or it is time for the next renewal.
    async fn listen(&mut self, after: u64) -> Result<Input, Left> {
        // What was asked meanwhile comes first.
        while let Ok(request) = self.ends.requests.try_recv() {
            self.accept(request).await?;
        }
        if let Some(loss) = &self.loss {
            refuse(&mut self.views, loss);
        }
        let impatient = !self.waits.is_empty() || !self.views.is_empty();
        if self.listening.is_none() {
            let Some(mut bell) = self.links.as_mut().and_then(|links| links.bell.take()) else {
                return Ok(Input::Failed);
            };
            self.listening = Some(tokio::spawn(async move {
                bell.bell(after, BELL).await?;
                Ok(bell)
            }));
        }
        let Some(listening) = &mut self.listening else { return Ok(Input::Failed) };
        tokio::select! {
            rung = listening => {
                self.listening = None;
                match (rung, &mut self.links) {
                    (Ok(Ok(bell)), Some(links)) => {
                        links.bell = Some(bell);
                        Ok(Input::Rang)
                    }
                    _ => Ok(Input::Failed),
                }
            }
            () = sleep(IMPATIENT_BELL), if impatient => Ok(Input::Rang),
            request = self.ends.requests.recv() => {
                match request {
                    Some(request) => self.accept(request).await?,
                    None => return Err(self.leave().await),
                }
                Ok(Input::Rang)
            }
        }
    }

    async fn accept(&mut self, request: Request) -> Result<(), Left> {
        match request {
            Request::Wait { sequence, lineages, limit, answer } => {
                let now = self.joining.clock.moment();
                let wait = Wait::new(sequence, lineages, now);
                self.waits.push(Waiting { wait, until: now.plus(limit), sequence, answer: Some(answer) });
            }
            Request::View { answer } => self.views.push(answer),
            Request::Leave { answer } => {
                let left = self.leave().await;
                // Whoever asked may have given up.
                let _ = answer.send(());
                return Err(left);
            }
        }
        Ok(())
    }

    /// Gives the lease up first, so that nobody who waits for a change misses a replica that can still answer.
    async fn leave(&mut self) -> Left {
        self.joining.stamps.release();
        if let Some(links) = &mut self.links
            && let Err(error) = links.asked.leave(&self.joining.identity.id).await
        {
            tracing::warn!(%error, "the fleet was not told that this replica leaves: it is listed as silent for a while");
        }
        // Waits until it is on the disk.
        self.joining.file = None;
        Left
    }

    /// Whether the list that was made before the renewal that has just confirmed the lease ends a wait.
    fn observe(&mut self) {
        if std::mem::take(&mut self.has_complained) {
            tracing::info!("the log of the store is followed again");
        }
        let Some((asked, listed)) = self.listed.take() else { return };
        let (own, now) = (self.protocol.standing(), self.joining.clock.moment());
        let (members, level) = (self.members.listed(), &*self.ends.level.load_full());
        let unlisted = self.members.unlisted();
        for waiting in &mut self.waits {
            let verdict = waiting.wait.observe(&Observation { asked, listed, members, unlisted, own, now });
            let waited = match verdict {
                Verdict::Pending => continue,
                // Those that are heard of may confirm it yet.
                Verdict::Done(report)
                    if (!report.lagging.is_empty() || report.unlisted.is_some()) && now < waiting.until =>
                {
                    continue;
                }
                Verdict::Done(report) => Waited::Done(wait_report(level, waiting.sequence, &report)),
                Verdict::StartOver => Waited::StartOver,
            };
            if let Some(answer) = waiting.answer.take() {
                // Whoever waited may have given up.
                let _ = answer.send(waited);
            }
        }
        self.waits.retain(|waiting| waiting.answer.as_ref().is_some_and(|answer| !answer.is_closed()));
        let head = self.head.as_ref().map_or(0, |head| head.position.sequence);
        for view in self.views.drain(..) {
            let view_now = fleet_view(level, head, &self.members, &self.joining.identity.id, now);
            let _ = view.send(Ok(FleetView { findings: self.findings.load().to_vec(), ..view_now }));
        }
    }
}

fn refuse(views: &mut Vec<oneshot::Sender<Result<FleetView, StoreError>>>, error: &StoreError) {
    for view in views.drain(..) {
        // Whoever asked may have given up.
        let _ = view.send(Err(error.clone()));
    }
}
