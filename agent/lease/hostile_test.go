package lease

import (
	"encoding/binary"
	"fmt"
	"math"
	"testing"
	"time"
)

// tape reads an order of events, and what is in them, from what a fuzzer makes up.
type tape []byte

func (p *tape) byte() byte {
	if len(*p) == 0 {
		return 0
	}
	b := (*p)[0]
	*p = (*p)[1:]
	return b
}

// number is small, or anything.
func (p *tape) number() uint64 {
	b := p.byte()
	switch {
	case b < 0xf0:
		return uint64(b % 6)
	case len(*p) < 8:
		return math.MaxUint64 - uint64(b&3)
	}
	n := binary.LittleEndian.Uint64(*p)
	*p = (*p)[8:]
	return n
}

func (p *tape) node() string { return fmt.Sprintf("n%d", p.byte()%5) }

func (p *tape) length() time.Duration { return time.Duration(p.number()) * (time.Second/2 + 1) }

// FuzzArbiter: whatever members say in whatever order, honest or not, of themselves and of
// each other, and whatever a quorum answers, the arbiter acknowledges only the holder, only
// after a quorum's word (S2), and gives the next term away only when the lease has run out,
// was given back by the holder, or a fence confirmed (S3).
func FuzzArbiter(f *testing.F) {
	f.Add([]byte{0, 1, 1, 1, 2, 1, 1, 1, 3, 40, 4, 2, 1, 1, 1, 3, 40, 4, 3, 60, 3, 60})
	f.Add([]byte{0, 1, 2, 1, 1, 2, 4, 1, 1, 1, 5, 1, 1, 1, 3, 255, 6, 1, 1, 7, 2, 1})
	f.Add([]byte{4, 2, 1, 1, 255, 255, 255, 255, 255, 255, 255, 255, 127, 3, 200, 8, 3, 100, 9, 1, 3, 250, 3, 250})
	f.Add([]byte{10, 2, 1, 1, 1, 1, 3, 80, 9, 0, 11, 1})
	f.Add([]byte{0, 14, 12, 0, 14, 12, 0, 18, 0, 9, 14, 12, 0, 12, 0, 18, 18, 9})                                // a failover
	f.Add([]byte{0, 14, 12, 0, 3, 100, 14, 18, 1, 9, 0, 2, 1, 3, 0, 1, 0, 0, 0, 2, 2, 1, 14, 12, 0})             // one that is slow to be committed
	f.Add([]byte{1, 14, 12, 0, 14, 12, 0, 3, 99, 14, 3, 2, 15, 9, 12, 0})                                        // by the fence
	f.Add([]byte{1, 14, 12, 0, 14, 12, 0, 3, 99, 14, 3, 2, 12, 0, 15, 16, 12, 0})                                // which is late
	f.Add([]byte{0, 12, 0, 17, 1, 18, 18, 17, 2, 12, 0, 14, 12, 0, 18})                                          // a pause
	f.Add([]byte{6, 14, 3, 200, 14, 3, 200, 4, 2, 1, 1, 1, 9, 0, 1, 1, 1, 1, 3, 1, 9, 12, 0})                    // the first master
	f.Add([]byte{2, 0, 1, 2, 1, 0, 1, 0, 0, 0, 2, 1, 1, 18, 0, 1, 2, 1, 0, 1, 0, 0, 0, 2, 2, 1, 9})              // another machine
	f.Add([]byte{0, 12, 1, 14, 6, 2, 1, 0, 1, 6, 3, 1, 0, 1, 3, 130, 12, 1, 14, 12, 1, 5, 1, 1, 1, 2, 1, 9, 14}) // trouble, and given back
	f.Add([]byte{0, 0, 1, 2, 1, 0, 1, 0, 0, 0, 2, 1, 1})                                                         // another machine of the name
	f.Add([]byte{0, 14, 12, 0, 14, 12, 0, 18, 14, 0, 0, 1, 1, 1, 0, 1, 0, 0, 0, 2, 3, 1})                        // the old holder, while it is given away
	f.Add([]byte{0, 0, 2, 1, 1, 0, 1, 0, 0, 0, 2, 1, 1})                                                         // who does not hold it
	f.Add([]byte("\x00\x01\x01\x01\x01\x03\x02\x04\x03<\x03(!\x01\x02\x01"))                                     // without a quorum
	f.Add([]byte("\xc4\x02\xdd\xf3\xf3\xed\xef\x0e\x88\xacs\xf5\x01\xe49\xff\x9f/\xdd\x80m\x1f\xff"))            // a fence that nobody asked
	f.Fuzz(func(t *testing.T, raw []byte) {
		p := tape(raw)
		tm := Timings{TTL: 6 * time.Second}
		begin := p.byte()
		a := NewArbiter("n0", tm, Policy{MaxLag: 10 * time.Second, MaxFailovers: 2, Fence: begin&1 != 0})
		fact := Fact{Term: 1, Holder: "n1", Machine: 1, InSync: []string{"n1", "n2", "n3"}, Served: 1, Voters: 3}
		switch {
		case begin&6 == 6:
			fact = Fact{Voters: 3} // there never was a master
		case begin&2 != 0:
			fact.InSync, fact.Served = nil, 0
		case begin&8 != 0:
			fact.Voters = 2
		}
		now := Time(time.Hour)
		var id, fence uint64
		var asked []Renewal
		confirmed := map[uint64]bool{}
		fenced, fencedTerm := false, uint64(0)
		since := now // the newest acknowledgement, or beginning of the office or the term
		step := func(ev Event) {
			for _, act := range a.Step(now, ev) {
				switch x := act.(type) {
				case Ack:
					r := asked[x.ID-1]
					if !confirmed[x.ID] || r.From != fact.Holder || r.Term != fact.Term || r.Machine != fact.Machine || fact.Released {
						t.Fatalf("%+v is acknowledged to %+v", r, fact)
					}
					since, fenced = now, false
				case Fence:
					if x.Node != fact.Holder || x.Term != fact.Term || now < since+tm.TTL-tm.StopBefore() {
						t.Fatalf("%+v, %v after the last acknowledgement to %+v", x, now-since, fact)
					}
					fence, fencedTerm = x.ID, fact.Term
				case Propose:
					if x.Term != fact.Term+1 || x.Holder == "" {
						t.Fatalf("%+v follows %+v", x, fact)
					}
					if !fact.Released && fact.Term != 0 && now < since+tm.TTL && !(fenced && fencedTerm == fact.Term) {
						t.Fatalf("%+v, %v after the last acknowledgement to %+v", x, now-since, fact)
					}
					if fact.Pause != Running {
						t.Fatalf("%+v while %v", x, fact)
					}
					if p.byte()%2 == 0 {
						fact = Fact{Term: x.Term, Holder: x.Holder, Machine: x.Machine, InSync: fact.InSync, Served: fact.Served, Voters: 3, Pause: fact.Pause, Epoch: fact.Epoch}
						since = now
					}
				case ProposeRelease:
					if x.Holder != fact.Holder || x.Term != fact.Term {
						t.Fatalf("%+v of %+v", x, fact)
					}
					fact.Released = true
				case ProposeMachine:
					if x.Term != fact.Term || x.Holder != fact.Holder || now < since+tm.TTL || fact.Pause != Running {
						t.Fatalf("%+v, %v after the last acknowledgement to %+v", x, now-since, fact)
					}
					fact.Machine = x.Machine
				case ProposeResumed:
					if fact.Pause == Resuming && x.Epoch == fact.Epoch { // else the voters refuse it
						fact.Pause = Running
						fact.Epoch++
					}
				case ProposeInSync:
					if x.Term == fact.Term {
						fact.InSync, fact.Served = x.Nodes, x.Term
					}
				}
			}
		}
		step(fact)
		step(Led{})
		ask := func(r Renewal) {
			id++
			r.ID = id
			asked = append(asked, r)
			step(r)
		}
		confirm := func(n uint64, ok bool) {
			confirmed[n] = confirmed[n] || ok
			step(Confirmed{ID: n, OK: ok})
		}
		for len(p) > 0 {
			switch p.byte() % 20 {
			case 0, 1:
				ask(Renewal{From: p.node(), Machine: p.number(), Term: p.number(), Epoch: p.number(), Serving: p.byte()%2 == 1,
					Trouble: string(make([]byte, p.byte()%3)), TroubleFor: p.length(), Grace: p.length()})
			case 2:
				if n := p.number(); n > 0 && n <= id {
					confirm(n, p.byte()%4 != 0)
				}
			case 3:
				now += Time(p.byte()) * Time(50*time.Millisecond)
				step(Tick{})
			case 4:
				step(Reported{Candidate{Node: p.node(), Machine: p.number(), Running: p.byte()%2 == 1, Ready: p.byte()%4 != 0, Why: "\x1b", Revision: p.number(),
					FreshAge: p.length(), Priority: int(p.number()), Never: p.byte()%4 == 3, OwnRevision: p.number(), Founder: p.byte()%2 == 1}})
			case 5:
				step(ReleaseAsked{From: p.node(), Machine: p.number(), Term: p.number(), To: p.node(), Automatic: p.byte()%2 == 1})
			case 6:
				step(Probed{From: p.node(), Term: p.number(), OK: p.byte()%2 == 1, Ever: p.byte()%2 == 1})
			case 7:
				n := p.number() // refused is only what surely was not committed
				step(Proposed{Term: n, Refused: p.byte()%2 == 1 && n > fact.Term})
			case 8:
				step(Failover{To: p.node(), By: "ann", Force: p.byte()%2 == 1})
			case 9:
				step(fact) // what was proposed is committed
			case 10:
				step(Lost{})
				step(fact) // who is elected knows what was committed
				since = now
				step(Led{})
			case 11:
				n := p.number()
				fenced = fenced || n == fence && fence != 0 && fencedTerm == fact.Term
				step(FenceConfirmed{ID: n})

			// What honest ones do, so that the story goes on.
			case 12, 13:
				ask(Renewal{From: fact.Holder, Machine: fact.Machine, Term: fact.Term, Epoch: fact.Epoch, Serving: true, Trouble: string(make([]byte, p.byte()%2)), Grace: tm.TTL})
				confirm(id, true)
			case 14:
				for _, n := range []string{"n1", "n2", "n3"} {
					step(Reported{Candidate{Node: n, Machine: 1, Ready: true, Revision: 9}})
				}
			case 15:
				fenced = fenced || fence != 0 && fencedTerm == fact.Term
				step(FenceConfirmed{ID: fence})
			case 16:
				step(FenceFailed{ID: fence})
			case 17:
				fact.Epoch++
				fact.Pause = []PausePhase{Running, Paused, Resuming}[p.byte()%3]
				step(fact)
			case 18:
				now += Time(tm.TTL + tm.TTL/6)
				step(Tick{})
			case 19:
				step(Gossiped{p.node(), p.byte()%2 == 1})
				step(FailedOver{p.number(), now - Time(p.number()%2)*Time(time.Hour)})
			}
			for _, at := range []Time{now, now + Time(tm.TTL)} {
				if j := a.Judge(at); j.Possible && j.To == "" {
					t.Fatalf("%+v", j)
				}
			}
			if w := a.Wake(now); w < now {
				t.Fatalf("woken %v ago", now-w)
			}
		}
	})
}
