//! How a change is made: judged by what the server holds, written by one script that checks that it still holds it, confirmed
//! by its replicas. Never acknowledges what a script has not answered for.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex as BlockingMutex, MutexGuard, PoisonError};
use std::time::Duration;

use data_encoding::HEXLOWER;
use redis::{RedisError, ScriptInvocation};
use tokio::runtime::Handle;
use tokio::sync::Mutex;
use tollgate_guard::protocol::Head;
use tollgate_guard::slots::Touched;

use super::acknowledged::Acknowledged;
use super::batch::{judge, judge_exchange, judge_named, judge_pepper};
use super::connect::Connector;
use super::connection::Connection;
use super::headroom::MemoryHeadroom;
use super::scripts::{ACCEPT, Answer, END, INIT, KNOWN, LIST, ScriptError, WRITE, explained, lost, missed, run};
use super::store_state::StoreState;
use super::write_set::{Put, Seen, Wanted, WriteSet, guards};
use super::{Init, Read, read_script, signing, texts};
use crate::domain::change::Event;
use crate::domain::record::AuditEntry;
use crate::store::chain::{Chains, NewRow, Told};
use crate::store::format::{Format, UNFINISHED};
use crate::store::heard::Heard;
use crate::store::keyspace::redis as names;
use crate::store::records::audit::lists_of_actor;
use crate::store::records::noun::Noun;
use crate::store::records::written::Written;
use crate::store::signature::{Trust, Verifier};
use crate::store::{PepperCheck, Quota, StoreError, Write};

/// How long an answer may take: one script, or the replicas' confirmation.
const LIMIT: Duration = Duration::from_secs(2);
/// How long the replicas may take to confirm.
const WAIT_MILLIS: u64 = 500;
/// How often a batch is judged anew, as others change what it depends on.
const ATTEMPTS: usize = 32;
/// A script must not hold everybody else up.
const MOST_STEPS: usize = 2048;
/// How many records are read at once.
const READ_AT_ONCE: usize = 512;

/// The one connection that changes are made over, one at a time.
pub(super) struct Writer {
    connector: Connector,
    runtime: Handle,
    connection: Mutex<Option<Line>>,
    /// A connection of an earlier generation is not used any more, and what was acknowledged over it is no promise.
    generation: AtomicU64,
    pub(super) log_length: usize,
    pub(super) replicas: u32,
    acknowledged: Arc<Acknowledged>,
    trust: Arc<Trust>,
    heard: Arc<Heard>,
    telling: BlockingMutex<Option<Teller>>,
}

/// Both chains of this process.
struct Teller {
    chains: Chains,
    /// How many histories there were when they began.
    histories: u64,
    /// The newest change that is certain to be in them, and stands in the store.
    stands: Option<Head>,
}

/// What a script is to append to both logs, and the chains before and behind it.
struct Telling {
    told: Told,
    before: Chains,
    after: Chains,
}

/// A connection, and how much room its server had.
struct Line {
    /// Whether the end of our chains is known to stand in its server.
    has_our_chains: bool,
    generation: u64,
    connection: Connection,
    room: MemoryHeadroom,
}

/// Why there is no sequence number.
enum WriteError {
    /// Others have changed what the batch was judged by: it must be judged anew.
    Stale,
    /// Nothing was written, and the connection is of no use any more.
    Broken(StoreError),
    /// Nobody knows whether it was written, and the connection is of no use any more. It only ends something, which may be done twice.
    Unheard(StoreError, Box<Put>),
    /// Final. The connection is sound.
    Refused(StoreError),
    /// Final, and the connection is of no use any more.
    Failed(StoreError),
}

type Judge<'j> = dyn for<'s> Fn(&'s Seen) -> Result<WriteSet<'s>, StoreError> + Send + Sync + 'j;

impl Writer {
    pub(super) fn new(
        connector: Connector,
        runtime: Handle,
        log_length: usize,
        (acknowledged, trust, heard): (Arc<Acknowledged>, Arc<Trust>, Arc<Heard>),
    ) -> Self {
        let replicas = connector.replicas();
        let (connection, generation, telling) = Default::default();
        Self { connector, runtime, connection, generation, log_length, replicas, acknowledged, trust, heard, telling }
    }

    pub(super) async fn commit(&self, batch: &[Write], event: &Event) -> Result<u64, StoreError> {
        if batch.len() > MOST_STEPS {
            let reason = format!("{} changes at once are too many: make at most {MOST_STEPS} at a time", batch.len());
            return Err(StoreError::Conflict(reason));
        }
        self.make(&|seen| judge(batch, seen), event).await
    }

    pub(super) async fn put_pepper_check(&self, check: PepperCheck) -> Result<(), StoreError> {
        self.make(&|seen| judge_pepper(&check, seen), &Event::touching(&[])).await.map(|_| ())
    }

    /// Signs the records in these places.
    pub(super) async fn sign<N: Noun>(&self, places: &[Vec<u8>]) -> Result<(), StoreError> {
        self.make(&|seen| signing::judge::<N>(places, seen), &Event::touching(&[])).await.map(|_| ())
    }

    /// Puts something in a place that no record has, or removes it from there.
    pub(super) async fn put_named(&self, name: &str, value: Option<Vec<u8>>) -> Result<(), StoreError> {
        self.make(&|seen| judge_named(name, value.as_deref(), seen), &Event::touching(&[])).await.map(|_| ())
    }

    /// The same where what stands there is still this.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] if something else stands there.
    pub(super) async fn exchange(&self, name: &str, before: Option<&[u8]>, after: &[u8]) -> Result<(), StoreError> {
        self.make(&|seen| judge_exchange(name, before, after, seen), &Event::touching(&[])).await.map(|_| ())
    }

    pub(super) async fn init(&self) -> Result<Init, StoreError> {
        let made = self.make_head(Format::NEWEST.in_head(), None).await?;
        Format::of_head(made.1)?;
        Ok(made.0)
    }

    /// As [`Writer::init`], of a store that is closed to all but the migration from there. One that is there stays as it is.
    pub(super) async fn init_closed(&self, origin: &str) -> Result<(), StoreError> {
        self.make_head(UNFINISHED, Some(origin)).await.map(|_| ())
    }

    /// With the format that it has.
    async fn make_head(&self, format: u64, origin: Option<&str>) -> Result<(Init, u64), StoreError> {
        let lineage = fresh_lineage()?;
        let mut held = self.connection.lock().await;
        // A fresh one: whoever makes a store must know where.
        let mut line = self.connect().await?;
        let connection = &mut line.connection;
        let mut script = INIT.prepare_invoke();
        script.key(names::HEAD).key(names::LOG).key(names::MEMBERS).key(names::MIGRATION);
        script.arg(lineage).arg(format).arg(origin);
        let mut answer = run(connection, &script).await.map_err(unknown_end)?;
        let (lineage, sequence, format) = (answer.text()?, answer.number()?, answer.number()?);
        self.confirm(connection).await?;
        *held = Some(line);
        let is_new = answer.word == "MADE";
        Ok((if is_new { Init::Made { lineage } } else { Init::WasThere { lineage, sequence } }, format))
    }

    /// As [`super::Redis::accept`].
    pub(super) async fn accept(&self, seen: &StoreState, row: &AuditEntry) -> Result<(String, u64), StoreError> {
        let mut held = self.connection.lock().await;
        let mut line = self.connect().await?;
        let connection = &mut line.connection;
        let everything = Event { touched: Touched::All, ended: Vec::new() };
        let rows = [NewRow { entry: row.clone(), written: Vec::new() }];
        let verifier = self.trust.of(seen.format);
        let Telling { told, .. } =
            self.tell(&verifier, seen.format, (&everything, Some(&Written::default())), &rows)?;
        let mut script = ACCEPT.prepare_invoke();
        script.key(names::HEAD).key(names::LOG).key(names::AUDIT).key(names::MEMBERS);
        script.arg(&seen.lineage).arg(seen.sequence).arg(&seen.chain).arg(seen.log);
        script.arg(fresh_lineage()?).arg(told.event).arg(told.rows).arg(seen.former());
        if seen.format.has_three() {
            for list in lists_of_actor(row) {
                script.arg(list);
            }
        }
        let mut answer = run(connection, &script).await.map_err(unknown_end)?.found()?;
        if answer.word == "STALE" {
            return Err(StoreError::Conflict("the store has changed meanwhile: look at it again".to_owned()));
        }
        let made = (answer.text()?, answer.number()?);
        self.confirm(connection).await?;
        *held = Some(line);
        Ok(made)
    }

    async fn make(&self, judge: &Judge<'_>, event: &Event) -> Result<u64, StoreError> {
        let mut held = self.connection.lock().await;
        self.acknowledged.check()?;
        let histories = self.acknowledged.histories();
        let mut unheard: Option<(StoreError, Box<Put>)> = None;
        for _ in 0..ATTEMPTS {
            let kept = held.take().filter(|line| self.is_good(line));
            let is_used = kept.is_some();
            let mut line = match kept {
                Some(line) => line,
                None => self.connect().await?,
            };
            if !line.has_our_chains {
                let looked = self.look_for_chains(&mut line.connection).await;
                looked.map_err(|error| unheard.as_ref().map_or(error, |(unheard, _)| unheard.clone()))?;
                line.has_our_chains = true;
            }
            let result = match &unheard {
                Some((_, put)) => self.attempt_again(&mut line, put, judge, event).await,
                None => self.attempt(&mut line, judge, event).await,
            };
            let is_good = self.is_good(&line);
            if !matches!(result, Err(WriteError::Broken(_) | WriteError::Unheard(..) | WriteError::Failed(_))) {
                *held = Some(line);
            }
            match result {
                Ok(made) => {
                    let sequence = made.position.sequence;
                    if is_good {
                        self.acknowledged.note(histories, made);
                    }
                    return Ok(sequence);
                }
                Err(WriteError::Stale) => {}
                // It may have been broken for long, as by a restart of the server.
                Err(WriteError::Broken(_)) if is_used => {}
                Err(WriteError::Unheard(error, put)) if unheard.is_none() => unheard = Some((error, put)),
                // It was made, as it seems, and changed by somebody since.
                Err(WriteError::Refused(StoreError::Conflict(_))) if unheard.is_some() => {
                    return Err(unheard.map_or_else(lost, |(error, _)| error));
                }
                Err(
                    WriteError::Broken(error)
                    | WriteError::Unheard(error, _)
                    | WriteError::Failed(error)
                    | WriteError::Refused(error),
                ) => return Err(error),
            }
        }
        Err(StoreError::Unavailable("others keep changing the same records: try again".to_owned()))
    }

    /// Runs a script that is no change of a record, and waits for the replicas. Where its answer is lost it is run once more over
    /// another connection: it must be the same if it is run twice.
    pub(super) async fn run_alone(&self, script: &ScriptInvocation<'_>) -> Result<Answer, StoreError> {
        let mut held = self.connection.lock().await;
        self.acknowledged.check()?;
        let mut line = match held.take().filter(|line| self.is_good(line)) {
            Some(line) => line,
            None => self.connect().await?,
        };
        let answer = match run(&mut line.connection, script).await {
            Err(ScriptError::Refused(_) | ScriptError::Unknown(_)) => {
                line = self.connect().await?;
                run(&mut line.connection, script).await
            }
            answer => answer,
        };
        let answer = answer.map_err(unknown_end)?.found()?;
        self.confirm(&mut line.connection).await?;
        *held = Some(line);
        Ok(answer)
    }

    /// Has the connection made anew before it is used again: its server may have been deposed.
    pub(super) fn drop_line(&self) {
        self.generation.fetch_add(1, Ordering::SeqCst);
    }

    fn is_good(&self, line: &Line) -> bool {
        !line.connection.is_closed() && line.generation == self.generation.load(Ordering::SeqCst)
    }

    async fn connect(&self) -> Result<Line, StoreError> {
        let generation = self.generation.load(Ordering::SeqCst);
        let connector = self.connector.clone();
        let connecting = self.runtime.spawn(async move { connector.primary().await });
        match connecting.await {
            Ok(connection) => connection.map(|mut connection| {
                connection.set_response_timeout(LIMIT);
                Line { has_our_chains: false, generation, connection, room: MemoryHeadroom::default() }
            }),
            Err(error) => Err(StoreError::Unavailable(format!("the connection was not made: {error}"))),
        }
    }

    async fn attempt(&self, line: &mut Line, judge: &Judge<'_>, event: &Event) -> Result<Head, WriteError> {
        let Line { connection, room, .. } = line;
        let mut seen = Seen::new(Format::NEWEST, self.trust.verifier());
        let mut as_of = None;
        let judged = loop {
            let wanted = match judge(&seen) {
                Ok(write_set) if !write_set.is_complete() => write_set.wanted(),
                judged if as_of.is_some() => break judged,
                _ => Wanted::default(),
            };
            let lineage = self.look(connection, wanted, &mut seen).await?;
            let now = (lineage, seen.format);
            if as_of.get_or_insert_with(|| now.clone()) != &now {
                return Err(WriteError::Stale);
            }
        };
        let uses_reserve = judged.as_ref().map_or(true, WriteSet::only_ends);
        if !uses_reserve && let Some(shortage) = room.shortage(connection).await.map_err(|error| broken(&error))? {
            return Err(WriteError::Refused(StoreError::Full(shortage)));
        }
        let mut script = if uses_reserve { &END } else { &WRITE }.prepare_invoke();
        script.key(names::HEAD).key(names::LOG).key(names::AUDIT);
        script.arg(as_of.map(|(lineage, _)| lineage)).arg(seen.format.in_head());
        // What was read at several moments may refuse what the store never would have.
        script.arg(if judged.is_ok() { "write" } else { "check" }).arg(self.log_length);
        let telling = match &judged {
            Ok(write_set) => {
                let told = (event, Some(write_set.written()));
                Some(self.tell(&seen.verifier, seen.format, told, write_set.rows()).map_err(WriteError::Refused)?)
            }
            Err(_) => None,
        };
        script.arg(telling.as_ref().map_or(&[][..], |telling| &*telling.told.event));
        guards(&seen, &mut script);
        if let (Ok(write_set), Some(telling)) = (&judged, &telling) {
            write_set.add_to(&telling.told.rows, &mut script);
        }
        let answer = match (run(connection, &script).await, &judged) {
            (Ok(answer), _) => answer,
            (Err(silence @ ScriptError::Full(_)), _) => {
                self.take_back(telling.as_ref());
                return Err(WriteError::Refused(silence.into_error()));
            }
            (Err(silence), Err(_)) => return Err(WriteError::Broken(silence.into_error())),
            (Err(silence @ ScriptError::Unknown(_)), Ok(write_set)) if uses_reserve => {
                return Err(WriteError::Unheard(unknown_end(silence), Box::new(write_set.put_by_it())));
            }
            (Err(silence), Ok(_)) => {
                if matches!(silence, ScriptError::Refused(_)) {
                    self.take_back(telling.as_ref());
                }
                return Err(WriteError::Failed(unknown_end(silence)));
            }
        };
        let quotas = judged.as_ref().map(WriteSet::quotas).unwrap_or_default();
        let answer = believed(answer, quotas).inspect_err(|_| self.take_back(telling.as_ref()))?;
        judged.map_err(WriteError::Refused)?;
        self.made(connection, answer, telling.as_ref()).await
    }

    /// What a store of this format is to be told of a change. It may have been written from then on, until something else is
    /// [known](Writer::took) of it.
    fn tell(
        &self,
        verifier: &Verifier,
        format: Format,
        event: (&Event, Option<&Written>),
        rows: &[NewRow],
    ) -> Result<Telling, StoreError> {
        let mut teller = self.teller();
        let histories = self.acknowledged.histories();
        // What one history has of these may be missing in the next one.
        let known = teller.take().filter(|teller| teller.histories == histories);
        let known = match known {
            Some(known) => known,
            None => Teller { chains: Chains::begin()?, histories, stands: None },
        };
        let before = known.chains.clone();
        let mut after = before.clone();
        let told = after.tell(verifier, format, event, rows);
        *teller = Some(Teller { chains: before.clone().perhaps(&after), ..known });
        Ok(Telling { told: told?, before, after })
    }

    fn took(&self, to: &Chains, stands: Option<&Head>) {
        if let Some(teller) = &mut *self.teller() {
            teller.chains = to.clone();
            if let Some(stands) = stands {
                teller.stands = Some(stands.clone());
            }
        }
    }

    /// Of what was not written.
    fn take_back(&self, telling: Option<&Telling>) {
        if let Some(telling) = telling {
            self.took(&telling.before, None);
        }
    }

    fn teller(&self) -> MutexGuard<'_, Option<Teller>> {
        self.telling.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the chains begin anew where the server of a new connection has lost the end of them.
    async fn look_for_chains(&self, connection: &mut Connection) -> Result<(), StoreError> {
        let Some(stands) = self.teller().as_ref().and_then(|teller| teller.stands.clone()) else { return Ok(()) };
        let mut script = KNOWN.prepare_invoke();
        script.key(names::HEAD).key(names::LOG).arg(stands.position.sequence).arg(&stands.position.chain);
        let answer = run(connection, &script).await.map_err(ScriptError::into_error)?;
        // It is known by its hash, or the log does not reach back so far.
        if answer.word != "UNKNOWN" {
            *self.teller() = None;
        }
        Ok(())
    }

    /// As [`Writer::attempt`], once nobody has heard whether it was made. Where every record is as it would have put it, it was: that
    /// is said once more, in the log alone.
    async fn attempt_again(
        &self,
        line: &mut Line,
        put: &Put,
        judge: &Judge<'_>,
        event: &Event,
    ) -> Result<Head, WriteError> {
        let mut seen = Seen::new(Format::NEWEST, self.trust.verifier());
        let wanted = Wanted { records: put.records.keys().cloned().collect(), ..Wanted::default() };
        let lineage = self.look(&mut line.connection, wanted, &mut seen).await?;
        if put.records.is_empty() || seen.records != put.records {
            return self.attempt(line, judge, event).await;
        }
        let mut script = END.prepare_invoke();
        script.key(names::HEAD).key(names::LOG).key(names::AUDIT).arg(lineage).arg(seen.format.in_head());
        let telling = self.tell(&seen.verifier, seen.format, (event, Some(&put.written)), put.rows());
        let telling = telling.map_err(WriteError::Refused)?;
        script.arg("write").arg(self.log_length).arg(&telling.told.event);
        guards(&seen, &mut script);
        put.add_to(&telling.told.rows, &mut script);
        let answer = run(&mut line.connection, &script).await;
        let answer = answer.map_err(|silence| WriteError::Failed(unknown_end(silence)))?;
        let answer = believed(answer, Vec::new()).inspect_err(|_| self.take_back(Some(&telling)))?;
        self.made(&mut line.connection, answer, Some(&telling)).await
    }

    /// Reads what a batch is to be judged by, with how it is laid out, and gives the lineage of the store.
    async fn look(&self, connection: &mut Connection, wanted: Wanted, seen: &mut Seen) -> Result<String, WriteError> {
        let records: Vec<String> = wanted.records.into_iter().collect();
        let mut chunks: Vec<&[String]> = records.chunks(READ_AT_ONCE).collect();
        if chunks.is_empty() {
            chunks.push(&[]);
        }
        let (mut lineage, mut moments) = (String::new(), Vec::new());
        moments.extend(seen.moment.take().map(|(_, moment)| moment));
        let is_first = seen.records.is_empty();
        for chunk in chunks {
            let mut answer = asked(run(connection, &read_script(chunk, 0)).await)?;
            let read = Read::of(&mut answer, &self.trust).map_err(WriteError::Failed)?;
            seen.records.extend(chunk.iter().cloned().zip(read.values));
            (lineage, seen.format, seen.verifier) = (read.lineage, read.format, read.verifier);
            moments.push(read.position);
        }
        let is_one = moments.windows(2).all(|two| two[0] == two[1]) && (is_first || moments.len() > 1);
        seen.moment = moments.pop().filter(|_| is_one).map(|moment| (Arc::clone(&self.heard), moment));
        for list in wanted.lists {
            let mut script = LIST.prepare_invoke();
            script.key(names::HEAD).key(&list).arg("-").arg("+").arg(-1).arg("").arg("");
            let mut answer = asked(run(connection, &script).await)?;
            let mut members = || {
                answer.as_of()?;
                texts(answer.value()?)
            };
            let members = members().map_err(WriteError::Failed)?;
            seen.lists.insert(list, members);
        }
        Ok(lineage)
    }

    async fn made(
        &self,
        connection: &mut Connection,
        mut answer: Answer,
        telling: Option<&Telling>,
    ) -> Result<Head, WriteError> {
        let made = answer.head().map_err(WriteError::Failed)?;
        self.confirm(connection).await.map_err(WriteError::Failed)?;
        if let Some(telling) = telling {
            self.took(&telling.after, Some(&made));
        }
        Ok(made)
    }

    /// Waits until the replicas have what was written over this connection.
    pub(super) async fn confirm(&self, connection: &mut Connection) -> Result<(), StoreError> {
        if self.replicas == 0 {
            return Ok(());
        }
        let confirmed = redis::cmd("WAIT").arg(self.replicas).arg(WAIT_MILLIS).query_async(connection).await;
        let confirmed: u32 = confirmed.map_err(|error| StoreError::Unreplicated(explained(&error)))?;
        if confirmed >= self.replicas {
            return Ok(());
        }
        Err(StoreError::Unreplicated(format!(
            "{confirmed} of {} replicas have confirmed it within {WAIT_MILLIS} ms: see to the replicas and try again",
            self.replicas
        )))
    }
}

fn fresh_lineage() -> Result<String, StoreError> {
    let mut lineage = [0; 16];
    getrandom::fill(&mut lineage).map_err(|error| StoreError::Unavailable(error.to_string()))?;
    Ok(HEXLOWER.encode(&lineage))
}

/// What the script that writes has answered, unless it did not.
fn believed(mut answer: Answer, quotas: Vec<Quota>) -> Result<Answer, WriteError> {
    match &*answer.word {
        "LOST" => Err(WriteError::Refused(lost())),
        "MISSED" => Err(WriteError::Refused(missed())),
        "OVER" => {
            let which = answer.number().map_err(WriteError::Failed)?;
            let over = usize::try_from(which).ok().and_then(|which| quotas.into_iter().nth(which));
            let unknown = || StoreError::Damaged("a script refused a quota that was not asked for".to_owned());
            Err(WriteError::Refused(over.map_or_else(unknown, StoreError::OverQuota)))
        }
        "STALE" => Err(WriteError::Stale),
        "DAMAGED" => Err(WriteError::Refused(StoreError::Damaged(answer.text().map_err(WriteError::Failed)?))),
        _ => Ok(answer),
    }
}

fn broken(error: &RedisError) -> WriteError {
    WriteError::Broken(ScriptError::from(error).into_error())
}

fn asked(answer: Result<Answer, ScriptError>) -> Result<Answer, WriteError> {
    match answer {
        Ok(answer) => answer.found().map_err(WriteError::Refused),
        Err(ScriptError::Damaged(reason)) => Err(WriteError::Failed(StoreError::Damaged(reason))),
        Err(silence) => Err(WriteError::Broken(silence.into_error())),
    }
}

/// Of a write that nobody answered for.
fn unknown_end(silence: ScriptError) -> StoreError {
    match silence {
        ScriptError::Unknown(reason) | ScriptError::Ended(reason) => {
            StoreError::Unavailable(format!("{reason}; the change may have been made, and trying again is safe"))
        }
        silence => silence.into_error(),
    }
}
