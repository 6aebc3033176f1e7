/* The lease, with the fence and the watchdog, as a small model for spin. The names
 * are those of agent/lease; S1 to S6 are the promises at its top. `make model` checks
 * it, and that each protection, switched off with -D, is missed. docs/model.md says
 * what is left out.
 *
 * Time is a Tick. The holder's clock is slow and the arbiter's is fast, as far as the
 * drift that is allowed for, once and for all: that is the worst case. Whoever does
 * nothing for a while hangs, is stopped, or has lost its messages: no step of an agent
 * or of the network has to happen. Only PID 1 keeps time: the Clock waits for it.
 */

#ifndef STEPDOWN
#define STEPDOWN 1            /* terms are given back */
#endif
#define HOSTS    2            /* candidates */

#ifndef MAXTERM
#define MAXTERM  3
#endif
#ifndef MAXEPOCH
#define MAXEPOCH 0            /* changes of Pause */
#endif

#ifndef TTL
#define TTL        4          /* ticks */
#endif
#define DRIFT      1          /* ticks in a TTL, both clocks together */
#define StopBefore 2
#define KillBefore 1
#define Lease      (TTL + DRIFT)
#ifdef NO_S3_WAIT
#define Wait       2
#else
#ifdef NO_DRIFT_MARGIN
#define Wait       (TTL)
#else
#define Wait       (TTL + DRIFT)  /* S3 */
#endif
#endif
#ifndef Patience
#define Patience   2          /* ticks that PID 1 waits for a sign of life */
#endif
#define Forever    15         /* deadline of a holder while the cluster is paused */

/* Phase of a Holder. Promoting and Master are one here. */
#define Standby   0
#define Named     1
#define Master    2
#define Stopping  3
#define Releasing 4

/* Units of a host: what is not Down is a live control plane. */
#define Down 0
#define Up   1
#define Ending 2              /* asked to stop; may take for ever */

/* What lies between a Holder and its Arbiter: one renewal at a time. */
#define Idle      0
#define Renewal   1           /* on its way */
#define Confirmed 2           /* a quorum said that its arbiter leads */
#define Acked     3           /* the answer is on its way */

/* PausePhase follows from the epoch. */
#define Running  0
#define Paused   1
#define Resuming 2
#define Pause(e) ((e) % 3)

/* Fact: what is committed. */
byte Term = 1;
byte HolderOf[MAXTERM + 1];   /* by term */
bit  Released;
byte Epoch;

/* What raft may still commit. */
byte grant;                   /* the host that gets Term+1, plus one; 0 = none */
bit  release;

/* Arbiter: the present one. Those who were it before matter only as far as they
 * have not noticed: see Past. */
bit  leading;                 /* Led: it knows all that was committed */
byte wait;                    /* until S3 is over */
#ifdef NO_RAFT_TERM
bit  past;                    /* somebody was the arbiter, and has not noticed that it is no more */
bit  again;                   /* it was elected again, and has not noticed either */
byte pastTerm;
byte pastWait;
#endif

/* Holder */
byte phase[HOSTS];
byte term[HOSTS];             /* that phase is about */
bit  deadline[HOSTS];         /* 1 = the one in the note; 0 = no lease */
bit  stepdown[HOSTS];         /* after stopping, give the term back */
bit  sawDown[HOSTS];          /* the units were seen down after they were stopped */
byte factTerm[HOSTS];         /* the newest Fact that it knows, on its disk */
bit  factReleased[HOSTS];
byte factEpoch[HOSTS];

/* The renewal of each host */
byte req[HOSTS];
byte reqTerm[HOSTS];
byte reqEpoch[HOSTS];
byte reqEnd[HOSTS];           /* the deadline if it is acknowledged: t_send + TTL */
bit  reqPast[HOSTS];          /* Confirmed, by an arbiter that was replaced since */
bit  reqLost[HOSTS];          /* the process that sent it is gone */
byte relMsg[HOSTS];           /* ReleaseAsked for this term is on its way */

/* The host: PID 1, units, /run/relevo/lease */
bit  alive[HOSTS];            /* the agent's process */
byte units[HOSTS];
byte noteTerm[HOSTS];
byte noteDeadline[HOSTS];
bit  noteStart[HOSTS];        /* units may be started */
bit  timer[HOSTS];            /* the fence's or the guard's: kills at deadline - KillBefore */
byte watchdog[HOSTS];

#define fact_names(h, t) (factTerm[h] == (t) && HolderOf[factTerm[h]] == (h) && !factReleased[h] && (t) != 0)
#define committed_names(h, t) (Term == (t) && HolderOf[Term] == (h) && !Released)
#define at_deadline(h, before) (noteDeadline[h] <= (before))
#define live(h) (units[h] != Down)
#define active(h) (live(h) || phase[h] == Master)

inline forget(h) {            /* the renewal is answered, or lost */
	req[h] = Idle; reqTerm[h] = 0; reqEpoch[h] = 0; reqEnd[h] = 0; reqPast[h] = 0; reqLost[h] = 0
}

/* The promises. */

inline starts(h) {            /* at most one, and only for the term that counts */
	units[h] = Up;
	assert(!live(1 - h));
	assert(committed_names(h, noteTerm[h]))
}

inline commits() {            /* nobody acts for the term that ends now */
	assert(!live(0) && !live(1))
}

/* ---- Holder ---- */

inline ClearLease(h) {
	noteTerm[h] = 0; noteDeadline[h] = 0; noteStart[h] = 0; timer[h] = 0
}

inline SetLease(h, end) {
	noteTerm[h] = term[h]; noteDeadline[h] = end; deadline[h] = 1;
	noteStart[h] = (phase[h] == Master);
	timer[h] = (phase[h] == Stopping)
}

inline stop(h) {              /* Demote: PID 1 guards it from here on */
	if
	:: phase[h] != Stopping ->
		phase[h] = Stopping;
		noteStart[h] = 0;
#ifndef NO_FENCE
		timer[h] = 1;
#endif
		if
		:: units[h] == Up -> units[h] = Ending
		:: else
		fi
	:: else
	fi
}

inline stopped(h) {           /* the units are down, and nothing starts them */
	ClearLease(h);
	deadline[h] = 0;
	if
	:: !fact_names(h, term[h]) ->
		phase[h] = Standby; stepdown[h] = 0;
		if
		:: fact_names(h, factTerm[h]) -> term[h] = factTerm[h]; phase[h] = Named
		:: else
		fi
	:: else ->
		if
		:: stepdown[h] -> phase[h] = Releasing
		:: else -> phase[h] = Named
		fi
	fi
}

inline enforce(h) {           /* S1, S5, whatever else happens */
#ifndef NO_STOP_AT
	if
	:: deadline[h] && at_deadline(h, StopBefore) && (phase[h] == Master || phase[h] == Named) -> stop(h)
	:: else
	fi;
#endif
	/* The pulse: PID 1 waits shorter when a stop is near. */
	watchdog[h] = Patience;
	if
	:: deadline[h] && noteDeadline[h] != Forever && noteDeadline[h] < Patience + KillBefore ->
		if
		:: noteDeadline[h] > KillBefore -> watchdog[h] = noteDeadline[h] - KillBefore
		:: else -> watchdog[h] = 1
		fi
	:: else
	fi
}

inline onPause(h, was) {      /* after a Fact, or after a restart */
	if
	:: deadline[h] && noteDeadline[h] > 0 && was != factEpoch[h] ->
		if
		:: Pause(factEpoch[h]) == Paused -> SetLease(h, Forever)
		:: Pause(factEpoch[h]) != Paused && noteDeadline[h] == Forever -> SetLease(h, Lease)
		:: else
		fi
	:: else
	fi
}

inline onFact(h, was) {       /* factTerm, factReleased, factEpoch are new */
	if
	:: fact_names(h, factTerm[h]) && term[h] != factTerm[h] ->
		term[h] = factTerm[h]; deadline[h] = 0; stepdown[h] = 0;
		if
		:: phase[h] == Master || phase[h] == Stopping || live(h) -> stop(h)
		:: else -> phase[h] = Named
		fi
#ifndef NO_TERM_CHECK
	:: !(fact_names(h, factTerm[h]) && term[h] != factTerm[h]) && phase[h] != Standby && !fact_names(h, term[h]) ->
		if
		:: phase[h] == Releasing && factTerm[h] == term[h] -> phase[h] = Standby
		:: else ->
			if
			:: phase[h] == Stopping || active(h) -> stop(h); timer[h] = 1
			:: else -> phase[h] = Standby; ClearLease(h)
			fi
		fi;
		deadline[h] = 0; stepdown[h] = 0
#endif
	:: else ->
		if
		:: phase[h] == Standby && live(h) -> stop(h)
		:: else
		fi;
	fi;
	onPause(h, was)
}

proctype Holder(byte h) {
	byte was;
	do
	:: d_step { alive[h] && (factTerm[h] != Term || factReleased[h] != Released || factEpoch[h] != Epoch) ->
		was = factEpoch[h];
		factTerm[h] = Term; factReleased[h] = Released; factEpoch[h] = Epoch;
		onFact(h, was); enforce(h); was = 0 }

	:: d_step { alive[h] && phase[h] != Standby && phase[h] != Releasing && fact_names(h, term[h]) ->
		enforce(h);           /* SendRenewal; one that was on its way is lost */
		req[h] = Renewal; reqTerm[h] = term[h]; reqEpoch[h] = factEpoch[h];
		reqEnd[h] = Lease; reqPast[h] = 0; reqLost[h] = 0 }

	:: d_step { alive[h] && req[h] == Acked ->
		if                    /* S1: from the moment of sending */
		:: !reqLost[h] && fact_names(h, reqTerm[h]) && reqTerm[h] == term[h] && phase[h] != Releasing && phase[h] != Standby ->
			was = reqEnd[h];
			if
			:: Pause(factEpoch[h]) == Paused && reqEpoch[h] == factEpoch[h] -> was = Forever
			:: else
			fi;
			if
			:: deadline[h] && was <= noteDeadline[h]
			:: else ->
				if
				:: phase[h] == Named && was > StopBefore -> phase[h] = Master   /* S4: Promote */
				:: else
				fi;
				SetLease(h, was)
			fi;
			was = 0
		:: else
		fi;
		forget(h);
		enforce(h) }

	:: d_step { alive[h] && phase[h] == Stopping && !live(h) && !sawDown[h] -> sawDown[h] = 1; enforce(h) }
	:: d_step { alive[h] && sawDown[h] -> sawDown[h] = 0; stopped(h); enforce(h) }   /* Units{false} */

	:: d_step { STEPDOWN && alive[h] && (phase[h] == Named || phase[h] == Master) && !stepdown[h] ->
		stepdown[h] = 1;      /* StepDown: a person, a shutdown, a promotion that failed */
		if
		:: phase[h] == Named && !live(h) -> stopped(h)
		:: else -> stop(h)
		fi;
		enforce(h) }

	:: d_step { alive[h] && phase[h] == Releasing && fact_names(h, term[h]) -> relMsg[h] = term[h]; enforce(h) }

	:: d_step { alive[h] && (watchdog[h] != Patience || (deadline[h] && at_deadline(h, StopBefore))) -> enforce(h) }   /* Tick */
#ifdef NO_FIRST_ACK
	:: d_step { alive[h] && phase[h] == Named && !deadline[h] -> phase[h] = Master; SetLease(h, Lease); enforce(h) }
#endif
	od
}

/* ---- PID 1 of a host: relevo.service with its watchdog and its ExecStopPost, the
 * units with their ExecCondition ---- */

inline process_ends(h) {
	alive[h] = 0; watchdog[h] = 0; sawDown[h] = 0; reqLost[h] = (req[h] != Idle);
	/* A renewal whose answer nobody waits for only makes the arbiter wait longer. */
	if
	:: req[h] == Acked -> forget(h)
	:: else
	fi;
	deadline[h] = 0; stepdown[h] = 0; term[h] = 0;
#ifdef FORGET_RELEASE
	phase[h] = Standby
#else
	if
	:: phase[h] == Releasing -> term[h] = factTerm[h]   /* it is on disk that the term was given back */
	:: else -> phase[h] = Standby
	fi
#endif
}

inline fence(h) {             /* relevo fence: the lease decides */
	if
	:: noteTerm[h] != 0 && noteDeadline[h] != Forever -> timer[h] = 1
	:: else
	fi
}

#ifdef NO_NOTE_START
#define may_start(h) true
#else
#define may_start(h) noteStart[h]
#endif
#define kill_due(h) (timer[h] && at_deadline(h, KillBefore) && live(h))
#define watchdog_due(h) (alive[h] && watchdog[h] == 0)

proctype PID1(byte h) {
	do
	/* The agent dies of itself, or does not pulse: stopped, deadlocked, slow. */
	:: d_step { alive[h] -> process_ends(h);
#ifndef NO_FENCE
		fence(h)
#endif
		}
	:: d_step { !alive[h] ->                    /* NewHolder, then what is known */
		alive[h] = 1;
		if
		:: phase[h] == Releasing
		:: else ->
			term[h] = noteTerm[h];
			if
			:: noteTerm[h] != 0 && noteDeadline[h] > 0 -> phase[h] = Named; deadline[h] = 1
			:: else -> term[h] = 0
			fi;
		fi;
		onFact(h, 0);
		enforce(h) }
	/* Restart=, a person, or the takeover: ExecCondition= asks `relevo lease held`. */
#ifdef NO_EXEC_CONDITION
	:: d_step { !live(h) -> starts(h) }
#else
	:: d_step { !live(h) && noteTerm[h] != 0 && noteDeadline[h] > 0 && may_start(h) -> starts(h) }
#endif
	:: d_step { units[h] == Ending -> units[h] = Down }
	:: d_step { units[h] == Up -> units[h] = Down }           /* a crash */
	:: d_step { timer[h] && at_deadline(h, StopBefore) && units[h] == Up -> units[h] = Ending }
	:: d_step { kill_due(h) -> units[h] = Down }
	/* Power cut, and the boot that follows. */
	:: d_step { alive[h] || live(h) || noteTerm[h] != 0 -> process_ends(h); units[h] = Down; ClearLease(h) }
	od
}

/* ---- Arbiter ---- */

/* mayRenew: S2 without the quorum's word. */
#ifdef NO_TERM_CHECK
#define names_for(h) true
#else
#define names_for(h) committed_names(h, reqTerm[h])
#endif
#ifdef ACK_WHILE_PROPOSED
#define giving false
#else
#define giving (grant != 0 || release)
#endif
#ifdef GRANT_WHILE_PAUSED
#define may_grant true
#else
#define may_grant (Pause(Epoch) == Running)
#endif

inline answer(h) {
	req[h] = Acked; reqPast[h] = 0;
	if
	:: reqLost[h] -> forget(h)
	:: else
	fi
}

inline ack(h) {
	wait = Wait;              /* it notes the moment on its own clock */
	if                        /* the holder knows of the resume: ProposeResumed */
	:: Pause(Epoch) == Resuming && reqEpoch[h] == Epoch && Epoch < MAXEPOCH -> Epoch++
	:: else
	fi;
	answer(h)
}

inline replaced(h) {          /* what it was giving away it does not renew any more */
	if
	:: req[h] == Confirmed && (giving || !names_for(h)) -> forget(h)
	:: req[h] == Confirmed && !(giving || !names_for(h)) -> reqPast[h] = 1
	:: else
	fi
}

#define due (leading && grant == 0 && !release && Term < MAXTERM && (Released || wait == 0) && may_grant)
#define past_due (again && grant == 0 && Term == pastTerm && Term < MAXTERM && pastWait == 0 && may_grant)

proctype Arbiter() {
	do
	:: d_step { !leading && grant == 0 && !release ->
#ifdef NO_RAFT_TERM
		again = 0;
#endif
		leading = 1; wait = Wait }

	/* A renewal arrives and a quorum confirms; then the answer goes out. Time may pass
	 * between the two, and the arbiter may be replaced. */
	:: d_step { leading && req[0] == Renewal && names_for(0) && !giving -> req[0] = Confirmed }
	:: d_step { leading && req[1] == Renewal && names_for(1) && !giving -> req[1] = Confirmed }
	:: d_step { req[0] == Confirmed && !reqPast[0] && leading && names_for(0) && !giving -> ack(0) }
	:: d_step { req[1] == Confirmed && !reqPast[1] && leading && names_for(1) && !giving -> ack(1) }

	/* Past: whoever was replaced still answers what a quorum confirmed before. */
	:: d_step { req[0] == Confirmed && reqPast[0] -> answer(0) }
	:: d_step { req[1] == Confirmed && reqPast[1] -> answer(1) }
#ifdef NO_CONFIRM
	:: d_step { req[0] == Renewal -> answer(0) }
	:: d_step { req[1] == Renewal -> answer(1) }
#endif

	/* ReleaseAsked. The message may come late, and again. */
	:: d_step { leading && grant == 0 && !release &&
		(relMsg[0] != 0 && committed_names(0, relMsg[0]) || relMsg[1] != 0 && committed_names(1, relMsg[1])) -> release = 1 }

	/* Judge: S3 is over, or the term was given back. */
	:: d_step { due -> grant = 1 }
	:: d_step { due -> grant = 2 }
#ifdef NO_RAFT_TERM
	:: d_step { past_due -> grant = 1 }
	:: d_step { past_due -> grant = 2 }
#endif
	:: d_step { leading && Pause(Epoch) == Resuming && Released && Epoch < MAXEPOCH -> Epoch++ }
	od
}

/* ---- Raft: one state that all agree on, and an arbiter that may change at any time ---- */

inline elect() {
	replaced(0);
	replaced(1);
	leading = 0; wait = 0
}

proctype Raft() {
	do
	:: d_step { grant != 0 ->                   /* applied, if the fact still allows it */
		if
		:: !may_grant
		:: else ->
			commits();
			assert(Pause(Epoch) == Running);
			assert(Term < MAXTERM);
			Term++; HolderOf[Term] = grant - 1; Released = 0;
			relMsg[0] = 0; relMsg[1] = 0;       /* of an old term: never heeded again */
			if
			:: leading -> wait = Wait
			:: else
			fi
		fi;
		grant = 0 }
	:: d_step { release -> commits(); Released = 1; release = 0; relMsg[0] = 0; relMsg[1] = 0 }
	/* An election. What was not committed may be lost, or not. */
	:: d_step { leading || grant != 0 || release -> elect() }
	:: d_step { grant != 0 || release -> elect(); grant = 0; release = 0 }
#ifdef NO_RAFT_TERM
	:: d_step { leading -> past = 1; pastTerm = Term; pastWait = wait; elect(); again = 0 }
	:: d_step { past && !leading -> again = 1 }
#endif
	/* A person pauses the cluster, or asks to resume. */
	:: d_step { leading && Pause(Epoch) != Resuming && Epoch < MAXEPOCH -> Epoch++ }
	od
}

/* ---- Time ---- */

inline older(x) {
	if
	:: x > 0 && x != Forever -> x--
	:: else
	fi
}

proctype Clock() {
	byte h;
	do
	:: d_step {
#ifdef NO_FENCE
		true ->
#else
		!kill_due(0) && !kill_due(1) && !watchdog_due(0) && !watchdog_due(1) ->
#endif
		for (h : 0 .. HOSTS - 1) {
			older(noteDeadline[h]);
			if              /* whether an agent hangs that holds nothing is of no interest */
			:: deadline[h] || live(h) -> older(watchdog[h])
			:: else
			fi;
			older(reqEnd[h]);
			if              /* too late to be of use: like lost */
			:: req[h] != Idle && reqEnd[h] == 0 -> forget(h)
			:: else
			fi;
			if              /* the note has run out: as good as none */
			:: noteDeadline[h] == 0 -> noteTerm[h] = 0; noteStart[h] = 0
			:: else
			fi
		}
#ifdef NO_RAFT_TERM
		older(pastWait);
#endif
		older(wait);
		h = 0 }
	od
}

init {
	atomic {
		HolderOf[1] = 0;
		factTerm[0] = 1; factTerm[1] = 1;
		run Holder(0); run Holder(1); run PID1(0); run PID1(1);
		run Arbiter(); run Raft(); run Clock()
	}
}

/* Witnesses: that the model does what it is about. Each must be reached. */
#ifdef SEE_FAILOVER
active proctype witness() { atomic { Term == 2 && HolderOf[2] == 1 && !Released && units[1] == Up -> assert(false) } }
#endif
#ifdef SEE_RETURN
active proctype witness() { atomic { Term == 3 && HolderOf[2] == 1 && HolderOf[3] == 0 && units[0] == Up -> assert(false) } }
#endif
#ifdef SEE_RESUME
active proctype witness() { atomic { Epoch == 3 && Term == 2 && units[1] == Up -> assert(false) } }
#endif
