/*
 * The lease with its fence, small enough to look at every run of it.
 *
 * Names are those of agent/lease: the holder H renews, the arbiter A acknowledges and
 * proposes, S1 to S6 as in lease.go. Two candidates; any number of voters, abstracted to
 * what they do: elect an arbiter (raft term rterm, the newest is elected), and confirm
 * that an arbiter is still theirs. Time is a counter; a tick is a third of a lease. What
 * must happen before a moment is a condition of the tick to it. Messages may be late,
 * lost, and answered by an arbiter that is none any more.
 *
 * Each protection can be switched off with -D, and spin must then find two masters:
 *   NO_S3_WAIT  A gives the term away without waiting
 *   NO_DEADLINE H does not stop when its lease runs out
 *   NO_FENCE    nobody stops the units of an agent that died
 *   NO_CONFIRM  A acknowledges without asking the voters whether it is still theirs
 *   NO_FIRSTACK H starts units before its first renewal is acknowledged
 *   NO_RESUMING a pause ends at once, before H has shown that it knows
 *   NO_CONDITION units start without the lease, by a boot or a person
 */

#define N 2       /* candidates */
#define TTL 3
#define FOREVER 100
#define NOBODY 9
#define UNKNOWN 99

#ifndef MAXT
#define MAXT 10   /* ticks */
#endif
#ifndef MAXTERM
#define MAXTERM 3
#endif
#ifndef MAXRAFT
#define MAXRAFT 2 /* elections of an arbiter, the first one included */
#endif
#ifndef MAXEPOCH
#define MAXEPOCH 0 /* a pause is two: it begins and ends */
#endif

#ifdef NO_S3_WAIT
#define WAIT 1
#else
#define WAIT 4    /* TTL and one tick for clocks that are off and timers that are late */
#endif

byte now = 1;

/* what is committed: lease.Fact */
byte term = 1; byte holder = 0; bool released = false;
byte pause = 0;   /* 0 Running, 1 Paused, 2 Resuming */
byte epoch = 0;

/* the arbiter that the voters elected last, and one that was deposed and does not know */
byte rterm = 1;
byte since = 1, lastAck = 0;
#ifdef NO_CONFIRM
bool deposed = false;
byte oldTerm = 0, oldHolder = NOBODY; /* what that one has applied */
#endif

typedef Host {
	byte fact;      /* newest term that its holder machine knows */
	bool named;     /* that term names it */
	byte deadline;  /* of its lease, in /run; 0 = none */
	bool units;     /* the control plane runs */
	bool alive;     /* its agent runs; PID 1 always does */
	bool power;
	bool sent;      /* a renewal is on its way: */
	byte sentAt, sentEpoch;
	bool acked;     /* its acknowledgement is on its way */
	bool late;      /* its clock, or its timers, are a tick late */
	bool paused;    /* as it knows, */
	byte epoch      /* of this epoch; UNKNOWN after a start */
};
Host h[N];

byte i;

/* units must be down before the tick to this moment */
#define END(x) (h[x].deadline + h[x].late)

#ifdef NO_DEADLINE
#define AGENT_OVER(x) false
#else
#define AGENT_OVER(x) (h[x].alive)
#endif
#ifdef NO_FENCE
#define FENCE_OVER(x) false
#else
#define FENCE_OVER(x) (!h[x].alive)
#endif

/* The tick waits for whoever has to stop units: the agent, or PID 1 for it (S5). */
#define MUST_STOP(x) (h[x].units && h[x].deadline != FOREVER && now + 1 >= END(x) && (AGENT_OVER(x) || FENCE_OVER(x)))

/* A message that is gone leaves nothing behind: fewer states. */
#define FORGET(x) h[x].sentAt = 0; h[x].sentEpoch = 0

#define HELD(x) (h[x].deadline == FOREVER || now + 1 < END(x))
#define NAMES(x) (holder == x && !released)

inline start(x) {
	h[x].units = true;
	/* S: at most one control plane, and none for an older term than another's */
	assert(!(h[0].units && h[1].units))
}

active proctype world() {
	h[0].power = true; h[0].alive = true; h[0].fact = 1; h[0].named = true;
	h[1].power = true; h[1].alive = true; h[1].fact = 1;
	if :: h[0].late = true :: skip fi;
	if :: h[1].late = true :: skip fi;
	do
	:: d_step { now < MAXT && !MUST_STOP(0) && !MUST_STOP(1) -> now++ }

	:: atomic { true -> if :: i = 0 :: i = 1 fi;
	   if
	   /* --- the holder machine, alive --- */
	   :: h[i].alive && h[i].fact < term -> /* the state arrives; S6 */
		h[i].fact = term; h[i].named = (holder == i && !released);
		h[i].sent = false; h[i].acked = false; FORGET(i);
		h[i].units = false; /* what runs belongs to an older term */
		h[i].deadline = 0
	   :: h[i].alive && h[i].fact == term && h[i].epoch != epoch -> /* a pause begins or ends */
		h[i].epoch = epoch; h[i].paused = (pause == 1);
		if
		:: h[i].deadline > now && h[i].paused -> h[i].deadline = FOREVER
		:: h[i].deadline == FOREVER && !h[i].paused -> h[i].deadline = now + TTL
		:: else
		fi
	   :: h[i].alive && h[i].named && !h[i].sent && !h[i].acked ->
		h[i].sent = true; h[i].sentAt = now; h[i].sentEpoch = h[i].epoch
	   :: h[i].sent -> h[i].sent = false; FORGET(i) /* lost */
	   :: h[i].acked -> h[i].acked = false; FORGET(i) /* lost */
	   :: h[i].alive && h[i].acked -> /* S1: the lease counts from when the renewal left */
		h[i].acked = false;
		if
		:: h[i].named ->
			if
			:: h[i].paused && h[i].sentEpoch == h[i].epoch -> h[i].deadline = FOREVER
			:: !(h[i].paused && h[i].sentEpoch == h[i].epoch) && h[i].sentAt + TTL > h[i].deadline && h[i].sentAt + TTL > now -> h[i].deadline = h[i].sentAt + TTL
			:: else
			fi
		:: else
		fi;
		FORGET(i)
	   :: h[i].alive && h[i].named && !h[i].units && /* S4 */
#ifdef NO_FIRSTACK
		h[i].fact == term ->
#else
		h[i].deadline != 0 && HELD(i) ->
#endif
		start(i)
	   :: h[i].units -> h[i].units = false /* stopped, by itself, the agent, PID 1, or because it must */
#ifdef NO_CONDITION
	   :: h[i].power && !h[i].units -> start(i) /* a boot, Restart=, a person */
#else
	   :: h[i].power && !h[i].units && h[i].deadline != 0 && HELD(i) -> start(i)
#endif
	   /* --- a planned change: units down, then the release is committed --- */
	   :: h[i].alive && h[i].named && !h[i].units && h[i].fact == term && NAMES(i) && pause == 0 ->
		released = true; h[i].deadline = 0; h[i].named = false

	   /* --- faults --- */
	   :: h[i].alive -> h[i].alive = false; h[i].sent = false; h[i].acked = false; FORGET(i) /* the agent dies, or hangs until the watchdog */
	   :: h[i].power && !h[i].alive -> /* it is back: the lease is in /run, the newest term on disk */
		h[i].alive = true; h[i].epoch = UNKNOWN; h[i].paused = false
	   :: h[i].power -> /* power cut: /run is gone */
		h[i].power = false; h[i].alive = false; h[i].units = false; h[i].deadline = 0; h[i].sent = false; h[i].acked = false; FORGET(i)
	   :: !h[i].power -> h[i].power = true

	   /* --- the arbiter: acknowledges (S2) --- */
	   :: h[i].sent && NAMES(i) && h[i].fact == term ->
		h[i].sent = false; lastAck = now; h[i].acked = true;
		if :: pause == 2 && h[i].sentEpoch == epoch -> pause = 0 :: else fi
#ifdef NO_CONFIRM
	   :: deposed && h[i].sent && oldHolder == i && h[i].fact == oldTerm ->
		h[i].sent = false; h[i].acked = true
#endif
	   /* --- the arbiter: gives the next term away (S3) --- */
	   :: term < MAXTERM && pause == 0 && (released || now >= (lastAck > since -> lastAck : since) + WAIT) && !(released && holder == i) && holder != i ->
		term++; holder = i; released = false; lastAck = 0; since = now
	   :: else
	   fi }

	/* the voters elect another arbiter: it knows of no acknowledgement */
	:: d_step { rterm < MAXRAFT -> rterm++;
#ifdef NO_CONFIRM
		deposed = true; oldTerm = term; oldHolder = (released -> NOBODY : holder);
#endif
		since = now; lastAck = 0 }

	/* a person pauses, and resumes */
	:: d_step { pause == 0 && epoch < MAXEPOCH -> pause = 1; epoch++ }
	:: d_step { pause == 1 && epoch < MAXEPOCH -> epoch++;
#ifdef NO_RESUMING
		pause = 0
#else
		pause = 2
#endif
	   }
	:: now >= MAXT -> break
	od
}
