//! Drives the state machine over a real connection: does what it says, and tells it what came of it. Never decides by itself
//! what may be served.

use std::collections::VecDeque;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::mpsc::error::TryRecvError;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout, timeout_at};

use super::roll::Roll;
use super::{Own, Parts, Request, Seen, Shared, View, Waited};
use crate::domain::fleet::{Member, MemberState, Renewal};
use crate::domain::time::Moment;
use crate::revocation::channel::{Action, Channel, Identity, Input, Now};
use crate::revocation::wait::{Observation, Verdict, Wait};
use crate::store::StoreError;
use crate::store::redis::Channel as Connection;

/// How long a connection may take to be made, and how long a command may take beyond its own limits.
const CONNECTED: Duration = Duration::from_secs(2);
const ANSWERED: Duration = Duration::from_secs(1);

/// How long to listen for the next change before the lease is renewed; less while somebody waits.
const LISTENS: Duration = Duration::from_millis(200);
const LISTENS_FOR_WAITERS: Duration = Duration::from_millis(20);

/// How often the list is looked at for members that have ended.
const ROLL_CALL: Duration = Duration::from_secs(60);

/// The members, with the moments before and after they were asked for.
struct List {
    members: Vec<Member>,
    asked: Moment,
    listed: Moment,
}

/// Why the thread ends.
#[derive(Debug)]
pub(super) enum Ending {
    Left,
}

pub(super) struct Driver<'p> {
    parts: &'p Parts,
    shared: &'p Arc<Shared>,
    channel: Channel,
    connection: Option<Connection>,
    queue: VecDeque<Action>,
    head: u64,
    waits: Vec<(Wait, oneshot::Sender<Waited>)>,
    views: Vec<oneshot::Sender<View>>,
    /// To be judged after the next renewal.
    list: Option<List>,
    roll: Roll,
    called_at: Moment,
    /// Everything that was ended is to be ended again.
    reconciles: bool,
    failing: bool,
}

/// A state machine for this replica.
pub(super) fn channel(parts: &Parts, lineages: u64) -> Channel {
    Channel::new(parts.identity.clone(), lineages, parts.clock.now())
}

impl Identity {
    /// Of this process, which nobody else has ever been.
    ///
    /// # Errors
    /// If the system has no random numbers.
    pub fn of_process(grace: Duration) -> Result<Self, getrandom::Error> {
        let mut random = [0; 16];
        getrandom::fill(&mut random)?;
        let id = format!("{:032x}", u128::from_be_bytes(random));
        let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
        Ok(Self { id, name, grace, version: env!("CARGO_PKG_VERSION").to_owned() })
    }
}

impl<'p> Driver<'p> {
    pub(super) fn new(parts: &'p Parts, shared: &'p Arc<Shared>, lineages: u64) -> Self {
        Self {
            parts,
            shared,
            channel: channel(parts, lineages),
            connection: None,
            queue: VecDeque::from([Action::Connect { after: Duration::ZERO }]),
            head: 0,
            waits: Vec::new(),
            views: Vec::new(),
            list: None,
            roll: Roll::default(),
            called_at: parts.clock.moment(),
            reconciles: false,
            failing: false,
        }
    }

    pub(super) async fn run(mut self, asked: &mut UnboundedReceiver<Request>) -> Ending {
        loop {
            match self.hear(asked) {
                Some(leave) => return self.leave(leave).await,
                None => self.tell(),
            }
            match self.queue.pop_front() {
                Some(Action::Connect { after }) => {
                    self.connection = None;
                    if let Some(leave) = self.pause(after, asked).await {
                        return self.leave(leave).await;
                    }
                    let input = self.connect().await;
                    self.take(input);
                }
                Some(Action::Renew { member, settle }) => {
                    let input = self.renew(&member, settle).await;
                    self.take(input);
                }
                Some(Action::Listen { after }) => {
                    self.settle_up();
                    let input = self.listen(after).await;
                    self.take(input);
                }
                Some(Action::DropLoads) => self.parts.redis.drop_loads(),
                Some(Action::Reconcile) => self.reconciles = true,
                Some(action) => self.carry_out(&action),
                // Each input leads to an action that leads to the next one.
                None => self.take(Input::Failed),
            }
        }
    }

    fn take(&mut self, input: Input) {
        if matches!(input, Input::Failed) {
            self.shared.figures.note_reconnect();
            self.list = None;
        }
        let now = Now {
            moment: self.parts.clock.moment(),
            time: self.parts.clock.now(),
            random: getrandom::u64().unwrap_or_default(),
        };
        let before = self.channel.own().state;
        self.queue.extend(self.channel.take(&now, input));
        let state = self.channel.own().state;
        match state {
            MemberState::Sealed if before != state => tracing::error!(
                "the store has lost its head: everything is refused. Restore its data, or make a new store with \
                 `tollgate store init`"
            ),
            MemberState::Attached if before != state => tracing::debug!("at the head of the store's log"),
            _ => {}
        }
    }

    fn carry_out(&mut self, action: &Action) {
        action.carry_out(&self.parts.stamps, &self.parts.sticky);
        match action {
            Action::Lease(_) => {
                self.failing = false;
                self.shared.figures.note_lease(self.parts.clock.moment());
            }
            Action::Adopt(_) => self.shared.figures.note_resync(),
            _ => {}
        }
    }

    /// What others see of this replica. Not before everything up to there has been applied.
    fn tell(&self) {
        if self.queue.iter().any(|action| matches!(action, Action::Apply(_) | Action::Adopt(_))) {
            return;
        }
        let (member, standing) = (self.channel.own(), self.channel.standing());
        let behind = self.head.saturating_sub(standing.applied);
        self.shared.figures.note_state(member.state, behind);
        self.shared.own.send_if_modified(|own| {
            let changed = own.standing != standing || own.member.state != member.state || own.head != self.head;
            *own = Own { member: member.clone(), standing, head: self.head };
            changed
        });
    }

    async fn connect(&mut self) -> Input {
        match timeout(CONNECTED, self.parts.redis.channel()).await {
            Ok(Ok(connection)) => {
                self.connection = Some(connection);
                Input::Connected
            }
            Ok(Err(error)) => self.failed(&error),
            Err(_) => self.failed(&silence()),
        }
    }

    /// A renewal, and before it the list of members if somebody asks for it: whoever judges the list then knows from a later
    /// answer that it came from the primary.
    async fn renew(&mut self, member: &Member, settle: bool) -> Input {
        if self.list.is_none() && self.wants_list() {
            let Some(connection) = self.connection.as_mut() else { return Input::Failed };
            let asked = self.parts.clock.moment();
            match in_time(connection.members()).await {
                Ok(members) => self.list = Some(List { members, asked, listed: self.parts.clock.moment() }),
                Err(error) => return self.failed(&error),
            }
        }
        let sent = self.parts.clock.moment();
        let input = self.on_connection(async |it| {
            let renewal = it.renew(member).await?;
            if settle && matches!(renewal, Renewal::Ahead { .. }) {
                it.settle().await?;
            }
            Ok(Input::Renewed { sent, renewal })
        });
        let input = input.await;
        if let Input::Renewed { renewal: Renewal::Ahead { head, .. } | Renewal::Resync(head), .. } = &input {
            self.head = head.position.sequence;
        }
        input
    }

    async fn listen(&mut self, after: u64) -> Input {
        let now = self.parts.clock.moment();
        let gone = self.roll.take_gone(now, &self.parts.identity.id);
        let wait = if self.waits.is_empty() { LISTENS } else { LISTENS_FOR_WAITERS };
        let rang = self.on_connection(async |it| {
            for (id, beat) in gone {
                it.prune(&id, beat).await?;
            }
            it.bell(after, wait).await.map(|()| Input::Rang)
        });
        rang.await
    }

    async fn on_connection(&mut self, ask: impl AsyncFnOnce(&mut Connection) -> Result<Input, StoreError>) -> Input {
        let Some(connection) = self.connection.as_mut() else { return Input::Failed };
        match in_time(ask(connection)).await {
            Ok(input) => input,
            Err(error) => self.failed(&error),
        }
    }

    /// Said once for a series of failures.
    fn failed(&mut self, error: &StoreError) -> Input {
        if !std::mem::replace(&mut self.failing, true) {
            tracing::warn!(%error, "the store's log cannot be followed; trying again");
        }
        Input::Failed
    }

    fn wants_list(&self) -> bool {
        let is_due = self.parts.clock.moment().since(self.called_at) >= ROLL_CALL;
        is_due || !self.waits.is_empty() || !self.views.is_empty()
    }

    /// After a renewal of which everything has been done.
    fn settle_up(&mut self) {
        self.reconcile();
        if self.channel.own().state != MemberState::Attached {
            return;
        }
        let now = self.parts.clock.moment();
        let Some(List { members, asked, listed }) = self.list.take() else { return };
        self.roll.call(&members, listed);
        self.called_at = now;
        let own = self.channel.standing();
        let seen = Observation { asked, listed, members: &members, own, now };
        for (mut wait, reply) in std::mem::take(&mut self.waits) {
            // Nobody may be waiting any more.
            let _ = match wait.observe(&seen) {
                Verdict::Done(report) => reply.send(Waited::Done(report)),
                Verdict::StartOver => reply.send(Waited::StartOver),
                Verdict::Pending if reply.is_closed() => Ok(()),
                Verdict::Pending => {
                    self.waits.push((wait, reply));
                    Ok(())
                }
            };
        }
        for reply in std::mem::take(&mut self.views) {
            let _ = reply.send(self.view(&members, now));
        }
    }

    fn view(&self, members: &[Member], now: Moment) -> View {
        let seen = |member: &Member| Seen {
            member: member.clone(),
            behind: self.head.saturating_sub(member.position.sequence),
            silent: self.roll.silent(member, now),
        };
        let own = Own { member: self.channel.own().clone(), standing: self.channel.standing(), head: self.head };
        View { own, members: members.iter().map(seen).collect() }
    }

    /// Hands on what is to be ended again, as soon as there is room.
    fn reconcile(&mut self) {
        let Ok(room) = self.parts.reconcile.try_reserve() else { return };
        let again = if std::mem::take(&mut self.reconciles) {
            self.parts.sticky.all()
        } else {
            self.parts.sticky.take_contradicted()
        };
        if !again.is_empty() {
            room.send(again);
        }
    }

    /// Takes what is asked; whether it is to leave.
    fn hear(&mut self, asked: &mut UnboundedReceiver<Request>) -> Option<Leave> {
        loop {
            match asked.try_recv() {
                Ok(request) => {
                    if let Some(leave) = self.note(request) {
                        return Some(leave);
                    }
                }
                Err(TryRecvError::Empty) => return None,
                Err(TryRecvError::Disconnected) => return Some(None),
            }
        }
    }

    fn note(&mut self, request: Request) -> Option<Leave> {
        match request {
            Request::Wait { wait, reply } => self.waits.push((wait, reply)),
            Request::View { reply } => self.views.push(reply),
            Request::Leave { reply } => return Some(Some(reply)),
        }
        None
    }

    async fn pause(&mut self, time: Duration, asked: &mut UnboundedReceiver<Request>) -> Option<Leave> {
        self.waits.retain(|(_, reply)| !reply.is_closed());
        self.views.retain(|reply| !reply.is_closed());
        let end = Instant::now() + time;
        while let Ok(request) = timeout_at(end, asked.recv()).await {
            let leave = match request {
                Some(request) => self.note(request),
                None => Some(None),
            };
            if leave.is_some() {
                return leave;
            }
        }
        None
    }

    /// The lease first: whoever is not on the list must not act on it.
    async fn leave(mut self, reply: Leave) -> Ending {
        self.parts.stamps.release();
        if let Some(connection) = self.connection.as_mut() {
            let _ = in_time(connection.leave(&self.parts.identity.id)).await;
        }
        if let Some(reply) = reply {
            let _ = reply.send(());
        }
        Ending::Left
    }
}

/// Whom to tell that it is done, if anybody asked.
type Leave = Option<oneshot::Sender<()>>;

/// The commands have limits of their own; this one is for what they forget.
async fn in_time<T>(answer: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
    timeout(ANSWERED, answer).await.unwrap_or_else(|_| Err(silence()))
}

fn silence() -> StoreError {
    StoreError::Unavailable("it does not answer".to_owned())
}
