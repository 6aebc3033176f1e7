package check

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// A try after the other, as letters: o = it answered, x = it did not; and what is
// thought of it after each: O, X.
func TestHysteresis(t *testing.T) {
	for tries, want := range map[string]string{
		"o": "O", "x": "X",
		"oxxo": "OOOO", "oxxx": "OOOX", "oxxoxx": "OOOOOO", "oxxxoo": "OOOXXO",
		"xo": "XX", "xoo": "XXO", "xoxo": "XXXX", "xooxxx": "XXOOOX",
	} {
		var s State
		n := 0
		got := ""
		for _, c := range tries {
			var err error
			if c == 'x' {
				err = errors.New("no")
			}
			if s, n = s.step(err, n); s.OK {
				got += "O"
			} else {
				got += "X"
			}
			if s.OK != (s.Why == "") || !s.Known {
				t.Errorf("%s: %+v", tries, s)
			}
		}
		if got != want {
			t.Errorf("%s: %s, want %s", tries, got, want)
		}
	}
}

// Units are tried in their time, states stay with what stays, and nothing runs when
// nobody asks for it.
func TestRunner(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var tries atomic.Int64
		var broken atomic.Bool
		r := New(func() string { return "127.0.0.1" }, func(_ context.Context, name string) error {
			tries.Add(1)
			if broken.Load() {
				return errors.New("it is inactive")
			}
			return nil
		})
		spec := Spec{Unit: "x.service", Interval: 10 * time.Second, Timeout: time.Second}
		r.Set(map[string]Spec{"a": spec})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); r.Run(ctx) }()
		time.Sleep(time.Second)
		if s := r.State("a"); !s.OK || tries.Load() != 1 {
			t.Fatalf("%+v after %d tries", s, tries.Load())
		}
		<-r.Changes()
		broken.Store(true)
		time.Sleep(21 * time.Second)
		if s := r.State("a"); !s.OK {
			t.Error("failing after two failures")
		}
		time.Sleep(20 * time.Second)
		if s := r.State("a"); s.OK || s.Why != "unit x.service: it is inactive" {
			t.Errorf("%+v", s)
		}
		<-r.Changes()
		r.Set(map[string]Spec{"a": spec, "b": spec})
		if s := r.State("a"); !s.Known || r.State("b").Known {
			t.Error("the state of what stayed is gone, or there is one of what is new")
		}
		r.Set(nil)
		time.Sleep(time.Second)
		n := tries.Load()
		time.Sleep(time.Hour)
		if tries.Load() != n || r.State("a").Known {
			t.Error("what nobody asks for is tried")
		}
		cancel()
		<-done
		r.Set(map[string]Spec{"c": spec}) // after the end: nothing runs
	})
}

func TestTries(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/moved":
			http.Redirect(w, r, "/sick", http.StatusFound)
		case "/sick":
			w.WriteHeader(http.StatusInternalServerError)
		case "/slow":
			<-r.Context().Done()
		}
	}))
	defer srv.Close()
	safe := httptest.NewTLSServer(http.NotFoundHandler())
	defer safe.Close()
	gone, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := gone.Addr().String()
	gone.Close()
	_, port, _ := net.SplitHostPort(srv.Listener.Addr().String())
	r := New(func() string { return "127.0.0.1" }, func(context.Context, string) error { return errors.New("it is failed") })
	for _, c := range []struct {
		spec Spec
		want string // part of the error; "" = none
	}{
		{Spec{TCP: ":" + port}, ""},
		{Spec{TCP: nobody}, nobody + ": connect: connection refused"},
		{Spec{HTTP: srv.URL + "/"}, ""},
		{Spec{HTTP: "http://:" + port + "/"}, ""},
		{Spec{HTTP: srv.URL + "/moved"}, ""},
		{Spec{HTTP: srv.URL + "/sick"}, "answers 500"},
		{Spec{HTTP: srv.URL + "/slow"}, "no answer in time"},
		{Spec{HTTP: safe.URL}, "answers 404"},
		{Spec{HTTP: "http://" + nobody + "/"}, "connection refused"},
		{Spec{TCP: ":" + port, Unit: "x.service"}, "unit x.service: it is failed"},
		{Spec{TCP: ":" + port, HTTP: srv.URL + "/sick"}, "answers 500"},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		err := r.try(ctx, c.spec)
		cancel()
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v, want %q", c.spec, err, c.want)
		}
	}
}
