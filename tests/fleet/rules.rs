//! What the protocol promises, and the rules that can be left out of the model.

/// A rule that is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    Nothing,
    /// Rule 3.
    StampsBeforeLease,
    /// Rule 4.
    JoinsUnchecked,
    /// Rule 6: two commands instead of one script.
    LogBeforeRecord,
    /// Rule 6: nothing is appended for a record that says revoked already.
    RetryAppendsNothing,
    /// Rule 7.
    AcknowledgedUnreplicated,
    /// Rule 7: the writer does not apply its own change before it acknowledges.
    WriterForgetsItself,
    /// Rule 8: numbers are compared, and not what stands behind them.
    IdsAlone,
    /// Rule 8: a store that went back is followed, though there was no failover.
    FollowsBack,
    /// Rule 8: what was acknowledged here and not heard of yet is not missed.
    MissesOnlyTheApplied,
    /// Rule 8: of what was acknowledged here the number is compared, and not what stands behind it.
    AcknowledgedByNumber,
    /// Rule 8: one that misses something keeps it to itself.
    TellsNobody,
    /// Rule 9.
    LeaseBehindTheHead,
    /// Rule 9.
    LeaseFromReceipt,
    /// Rule 9: what was cached outlasts a resync.
    ResyncKeepsCache,
    /// Rule 10.
    PlainLoads,
    /// Rule 10: a load is believed whatever history it comes from.
    LoadsFromAnyHistory,
    /// Rule 11.
    LoadsFromReceipt,
    /// Rule 12.
    ForgetsRevocations,
    /// Rule 13: the first lease comes before the store's replicas know the member.
    LeaseUnsettled,
    /// Rule 13: a silent member is forgotten while its grace goes on.
    PrunesGraced,
    /// Rule 13: a replica leaves, and goes on answering.
    LeavesEarly,
    /// Rule 13: a list of members that was lost is taken for whole.
    CountsNoMembers,
    /// Rule 13: of those that are not listed any more nobody knows what grace they had.
    ForgetsGraces,
    /// Rule 13: whoever is listed prolongs the graces of those that are not.
    ProlongsLostGraces,
    /// Rule 14, and rule 13, which makes up for it where a failover loses nothing that was settled.
    WaitIgnoresFence,
    /// Rule 14.
    WaitCountsItselfAlone,
    /// Rule 14.
    WaitNeverStartsOver,
    /// Rule 17.
    Unfenced,
}

/// A promise that was not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Violation {
    /// S1: an allow longer than D after the acknowledgement.
    Late,
    /// S2: an allow that began after `--wait` had returned.
    AfterWait,
    /// S3: a revoked key became valid again.
    Revived,
    /// A replica was given a lease by a store that has lost what this replica knew.
    Unsealed,
    /// Whoever made the change acted against it after its acknowledgement.
    Own,
    /// L1: a healthy system did not come to rest, or loads what it has.
    Restless,
}
