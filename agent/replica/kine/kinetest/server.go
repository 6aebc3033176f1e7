package kinetest

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// Program is where kine lies: $RELEVO_TEST_KINE, or what the tests on real hosts
// have built in .cache of the repository (see test/hosts). Without it the test is
// skipped.
func Program(t testing.TB) string {
	t.Helper()
	if p := os.Getenv("RELEVO_TEST_KINE"); p != "" {
		return p
	}
	for dir, last := ".", ""; dir != last; dir, last = filepath.Join(dir, ".."), dir {
		if found, _ := filepath.Glob(filepath.Join(dir, ".cache/kine-*/kine")); len(found) > 0 {
			return found[0]
		}
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			break
		}
	}
	t.Skip("kine is not built: `make e2e` builds it, or give $RELEVO_TEST_KINE")
	return ""
}

// Server is a running kine, and an etcd client of it that knows three
// transactions: those that the API server uses, and kine takes.
type Server struct {
	t    testing.TB
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
	http *http.Client
	url  string
	revs map[string]int64 // newest revision of each key that lives
}

// Start runs kine on a database until the test ends or Kill. It compacts often,
// and keeps little, unless args say otherwise.
func Start(t testing.TB, program, path string, args ...string) *Server {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	log, err := os.Create(path + ".log")
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	s := &Server{t: t, url: "http://" + addr, revs: map[string]int64{}}
	s.cmd = exec.Command(program, append([]string{"--endpoint", "sqlite://" + path + "?_journal=WAL&cache=shared&_busy_timeout=30000", "--listen-address", addr,
		"--metrics-bind-address", "0", "--compact-interval", "300ms", "--compact-min-retain", "50", "--compact-batch-size", "100"}, args...)...)
	s.cmd.Stdout, s.cmd.Stderr = log, log
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	s.done = make(chan struct{})
	go func() {
		_ = s.cmd.Wait() // killed, or said why in its log
		close(s.done)
	}()
	t.Cleanup(s.Kill)
	var p http.Protocols
	p.SetUnencryptedHTTP2(true)
	s.http = &http.Client{Transport: &http.Transport{Protocols: &p}, Timeout: 30 * time.Second}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		var d net.Dialer
		c, err := d.DialContext(ctx, "tcp", addr)
		if err == nil {
			c.Close()
			return s
		}
		select {
		case <-s.done:
			cancel()
		case <-ctx.Done():
			text, _ := os.ReadFile(path + ".log")
			t.Fatalf("kine does not listen: %v\n%s", err, text)
		case <-tick.C:
		}
	}
}

// Kill ends it at once, as a power cut would.
func (s *Server) Kill() {
	_ = s.cmd.Process.Kill() // it may be gone
	<-s.done
}

// Put creates or updates a key and returns the revision.
func (s *Server) Put(key, value string) int64 {
	s.t.Helper()
	put := field(2, append(field(1, []byte(key)), field(2, []byte(value))...)) // RequestOp.request_put
	txn := append(compare(key, s.revs[key]), field(2, put)...)
	if s.revs[key] != 0 {
		txn = append(txn, field(3, field(1, field(1, []byte(key))))...)
	}
	s.revs[key] = s.txn(txn)
	return s.revs[key]
}

// Delete deletes a key that lives.
func (s *Server) Delete(key string) {
	s.t.Helper()
	if s.revs[key] == 0 {
		return
	}
	txn := append(compare(key, s.revs[key]), field(2, field(3, field(1, []byte(key))))...)
	s.txn(append(txn, field(3, field(1, field(1, []byte(key))))...))
	delete(s.revs, key)
}

// Known is the newest revision of each key that lives.
func (s *Server) Known() map[string]int64 { return maps.Clone(s.revs) }

// Adopt makes it know what lives in a database that another server has written.
func (s *Server) Adopt(known map[string]int64) { s.revs = maps.Clone(known) }

// compare is TxnRequest.compare: mod revision of key equals rev.
func compare(key string, rev int64) []byte {
	c := append([]byte{2 << 3, 2}, field(3, []byte(key))...) // target MOD
	return field(1, binary.AppendUvarint(append(c, 6<<3), uint64(rev)))
}

// field is one length-delimited field of a protobuf message.
func field(n int, data []byte) []byte {
	b := binary.AppendUvarint([]byte{byte(n<<3 | 2)}, uint64(len(data)))
	return append(b, data...)
}

// txn sends a transaction and returns its revision; it must succeed.
func (s *Server) txn(msg []byte) int64 {
	s.t.Helper()
	body := binary.BigEndian.AppendUint32([]byte{0}, uint32(len(msg)))
	req, err := http.NewRequestWithContext(s.t.Context(), http.MethodPost, s.url+"/etcdserverpb.KV/Txn", bytes.NewReader(append(body, msg...)))
	if err != nil {
		s.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/grpc")
	req.Header.Set("Te", "trailers")
	res, err := s.http.Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(res.Body)
	if status := res.Trailer.Get("Grpc-Status") + res.Header.Get("Grpc-Status"); err != nil || status != "0" || len(answer) < 5 {
		s.t.Fatalf("kine: %s, status %s %s%s, %v", res.Status, status, res.Trailer.Get("Grpc-Message"), res.Header.Get("Grpc-Message"), err)
	}
	rev, ok := result(answer[5:])
	if !ok {
		s.t.Fatalf("kine did not carry out the transaction: %q", answer)
	}
	return rev
}

// result reads TxnResponse: header.revision, and succeeded.
func result(b []byte) (rev int64, ok bool) {
	for len(b) > 0 {
		tag, n := binary.Uvarint(b)
		v, m := binary.Uvarint(b[n:])
		b = b[n+m:]
		if tag&7 != 2 {
			ok = ok || tag == 2<<3 && v == 1
			continue
		}
		data := b[:v]
		b = b[v:]
		for tag == 1<<3|2 && len(data) > 0 {
			t, n := binary.Uvarint(data)
			v, m := binary.Uvarint(data[n:])
			if t == 3<<3 {
				rev = int64(v)
			}
			data = data[n+m:]
		}
	}
	return rev, ok
}
