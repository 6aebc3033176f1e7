//go:build measure

package quorum

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"
)

// The measurements behind the table in doc.go:
//
//	go test -tags measure -run TestMeasure -v -timeout 60m ./agent/quorum
//
// Three voters, each a process with its directory on the disk, over TCP on
// loopback. Idle: after 10 s of rest, MEASURE_IDLE (default 60 s) long, CPU from
// getrusage and voluntary context switches of all threads. Elections: kill -9 of
// the leader, until another says that it is ready (IsLeader), MEASURE_KILLS
// (default 30) times.

type setting struct {
	Name  string
	Times timings
}

type wire struct {
	Heartbeat, Detect, Lease, Commit, Hold, Again, RPC time.Duration
}

func settings() []setting {
	ours, _ := timingsFor(0)
	quick := ours
	quick.heartbeat, quick.detect, quick.lease, quick.commit = 100*time.Millisecond, time.Second, 500*time.Millisecond, 50*time.Millisecond
	slow := ours
	slow.heartbeat, slow.detect, slow.lease, slow.commit = 500*time.Millisecond, 5*time.Second, 2*time.Second, time.Second
	sparse := ours
	sparse.heartbeat = 400 * time.Millisecond
	level := ours
	level.hold, level.again = time.Microsecond, time.Hour
	return []setting{{"raft's defaults", quick}, {"slow", slow}, {"beats 0.4-0.8 s", sparse}, {"no turns", level}, {"chosen", ours}}
}

type tcp struct {
	net.Listener
	ports map[string]string
}

func (s tcp) Dial(to raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	return net.DialTimeout("tcp", s.ports[string(to)], timeout)
}

func measurePorts() map[string]string {
	return map[string]string{"n1": "127.0.0.1:17947", "n2": "127.0.0.1:17948", "n3": "127.0.0.1:17949"}
}

// TestMeasureNode is one voter; TestMeasure starts it as a process.
func TestMeasureNode(t *testing.T) {
	name := os.Getenv("MEASURE_NODE")
	if name == "" {
		t.Skip("only started by TestMeasure")
	}
	var w wire
	if err := json.Unmarshal([]byte(os.Getenv("MEASURE_TIMES")), &w); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", measurePorts()[name])
	if err != nil {
		t.Fatal(err)
	}
	q, err := Open(Config{
		Node: name, Cluster: "home", Dir: filepath.Join(os.Getenv("MEASURE_DIR"), name), Bootstrap: name == "n1", Voter: true,
		Stream: tcp{l, measurePorts()}, Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
		times: timings{w.Heartbeat, w.Detect, w.Lease, w.Commit, w.Hold, w.Again, w.RPC},
	})
	if err != nil {
		t.Fatal(err)
	}
	go q.Run(context.Background())
	go func() { // commands of the parent
		in := bufio.NewScanner(os.Stdin)
		for in.Scan() {
			switch in.Text() {
			case "form":
				for _, n := range []string{"n2", "n3"} {
					if err := q.AddVoter(context.Background(), n); err != nil {
						fmt.Println("error", err)
					}
				}
			case "usage":
				var r syscall.Rusage
				_ = syscall.Getrusage(syscall.RUSAGE_SELF, &r)
				fmt.Println("usage", time.Duration(r.Utime.Nano()+r.Stime.Nano()).Nanoseconds(), switches(), q.IsLeader())
			}
		}
	}()
	was := false
	for {
		<-q.Changes()
		if is := q.IsLeader(); is != was {
			was = is
			fmt.Println("ready", is, time.Now().UnixNano())
		}
	}
}

func switches() (n int) {
	tasks, _ := filepath.Glob("/proc/self/task/*/status")
	for _, task := range tasks {
		raw, _ := os.ReadFile(task)
		for line := range strings.Lines(string(raw)) {
			if v, ok := strings.CutPrefix(line, "voluntary_ctxt_switches:"); ok {
				i, _ := strconv.Atoi(strings.TrimSpace(v))
				n += i
			}
		}
	}
	return n
}

// TestMeasureSimulated draws elections in simulated time: no load of this machine
// in it, and slow disks and radio put in as a delay of 5 to 80 ms for each message.
func TestMeasureSimulated(t *testing.T) {
	for _, s := range settings() {
		for _, voters := range []int{3, 5} {
			var took []time.Duration
			synctest.Test(t, func(t *testing.T) {
				c := newCluster(t)
				c.times = s.Times
				c.net.delay = func() time.Duration { return 5*time.Millisecond + rand.N(75*time.Millisecond) }
				c.form(voters, 0)
				defer c.stopAll()
				took = elections(c, 400)
			})
			t.Logf("%-16s %d voters, simulated: median %v, 95th %v, 99th %v, worst %v", s.Name, voters,
				took[len(took)/2], took[len(took)*95/100], took[len(took)*99/100], took[len(took)-1])
		}
	}
}

type child struct {
	cmd *exec.Cmd
	in  io.Writer
}

type line struct {
	node string
	word []string
}

func TestMeasure(t *testing.T) {
	idle, kills := 60*time.Second, 30
	if v, err := time.ParseDuration(os.Getenv("MEASURE_IDLE")); err == nil {
		idle = v
	}
	if v, err := strconv.Atoi(os.Getenv("MEASURE_KILLS")); err == nil {
		kills = v
	}
	for _, s := range settings() {
		if only := os.Getenv("MEASURE_ONLY"); only != "" && !strings.Contains(only, s.Name) {
			continue
		}
		dir := t.TempDir()
		lines := make(chan line, 1000)
		nodes := map[string]*child{}
		times, _ := json.Marshal(wire{s.Times.heartbeat, s.Times.detect, s.Times.lease, s.Times.commit, s.Times.hold, s.Times.again, s.Times.rpc})
		start := func(name string) {
			cmd := exec.Command(os.Args[0], "-test.run", "^TestMeasureNode$", "-test.timeout", "2h")
			cmd.Env = append(os.Environ(), "MEASURE_NODE="+name, "MEASURE_DIR="+dir, "MEASURE_TIMES="+string(times))
			in, _ := cmd.StdinPipe()
			out, _ := cmd.StdoutPipe()
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			nodes[name] = &child{cmd, in}
			go func() {
				for sc := bufio.NewScanner(out); sc.Scan(); {
					lines <- line{name, strings.Fields(sc.Text())}
				}
			}()
		}
		wait := func(what string, ok func(line) bool) line {
			limit := time.After(time.Minute)
			for {
				select {
				case l := <-lines:
					if ok(l) {
						return l
					}
				case <-limit:
					t.Fatal("waited for ", what)
				}
			}
		}
		isReady := func(l line) bool { return len(l.word) == 3 && l.word[0] == "ready" && l.word[1] == "true" }
		for name := range measurePorts() {
			start(name)
		}
		leader := wait("n1", isReady).node
		fmt.Fprintln(nodes[leader].in, "form")
		time.Sleep(10 * time.Second)

		usage := func() (cpu, sw map[bool][]float64) {
			cpu, sw = map[bool][]float64{}, map[bool][]float64{}
			for _, n := range []string{"n1", "n2", "n3"} {
				fmt.Fprintln(nodes[n].in, "usage")
				l := wait("usage", func(l line) bool { return l.node == n && len(l.word) == 4 && l.word[0] == "usage" })
				c, _ := strconv.ParseFloat(l.word[1], 64)
				w, _ := strconv.ParseFloat(l.word[2], 64)
				cpu[l.word[3] == "true"] = append(cpu[l.word[3] == "true"], c/1e9)
				sw[l.word[3] == "true"] = append(sw[l.word[3] == "true"], w)
			}
			return cpu, sw
		}
		c0, s0 := usage()
		time.Sleep(idle)
		c1, s1 := usage()
		per := idle.Minutes()
		t.Logf("%-16s idle: leader %.3f s CPU/min, %.0f switches/s; follower %.3f s CPU/min, %.0f switches/s", s.Name,
			(c1[true][0]-c0[true][0])/per, (s1[true][0]-s0[true][0])/idle.Seconds(),
			(c1[false][0]-c0[false][0])/per, (s1[false][0]-s0[false][0])/idle.Seconds())

		var took []time.Duration
		for range kills {
			died := time.Now()
			_ = nodes[leader].cmd.Process.Kill()
			_ = nodes[leader].cmd.Wait()
			dead := leader
			l := wait("a new leader", isReady)
			ns, _ := strconv.ParseInt(l.word[2], 10, 64)
			took = append(took, time.Unix(0, ns).Sub(died))
			leader = l.node
			start(dead)
			time.Sleep(2*s.Times.detect + time.Duration(len(took)%7)*170*time.Millisecond)
		}
		for _, n := range nodes {
			_ = n.cmd.Process.Kill()
			_ = n.cmd.Wait()
		}
		if len(took) == 0 {
			continue
		}
		slices.Sort(took)
		at := func(p int) time.Duration {
			return took[min(len(took)*p/100, len(took)-1)].Round(10 * time.Millisecond)
		}
		t.Logf("%-16s %d elections: median %v, 95th %v, worst %v", s.Name, len(took), at(50), at(95), took[len(took)-1].Round(10*time.Millisecond))
	}
}
