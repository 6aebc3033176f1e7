package verify

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strings"
	"testing"

	"relevo.dev/relevo/agent/replica/kine"
	"relevo.dev/relevo/agent/replica/kine/kinetest"
)

func asker(path string) kine.Ask {
	return func(ctx context.Context, q kine.Query) (kine.Reply, error) {
		r, err := kine.OpenReader(ctx, path)
		if err != nil {
			return kine.Reply{}, err
		}
		defer r.Close()
		return r.Answer(ctx, q)
	}
}

func getter(t testing.TB, h http.Handler) Getter {
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	return func(ctx context.Context, uri string) (*http.Response, error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, srv.URL+uri, nil)
		if err != nil {
			return nil, err
		}
		return srv.Client().Do(req)
	}
}

func TestOverHTTP(t *testing.T) {
	dir := t.TempDir()
	w := kinetest.New(t, filepath.Join(dir, "state.db"), false)
	w.Random(rand.New(rand.NewPCG(1, 1)), 300)
	copied := filepath.Join(dir, "copy.db")
	w.Exec(`VACUUM INTO ?`, copied)
	c := kinetest.New(t, copied, false)
	w.Compact(w.Head() - 20)
	here, err := kine.OpenReader(t.Context(), copied)
	if err != nil {
		t.Fatal(err)
	}
	defer here.Close()
	there := Ask(getter(t, NewHandler(asker(w.Path))))
	got, err := kine.Compare(t.Context(), here.Answer, there, 10)
	if err != nil || !got.Equal() || got.Rows == 0 {
		t.Fatalf("%+v, %v", got, err)
	}
	id := c.Head() - 5
	c.Exec(`UPDATE kine SET lease=7, name='/registry/changed' WHERE id=?`, id)
	got, err = kine.Compare(t.Context(), here.Answer, there, 10)
	if err != nil || len(got.Differences) == 0 || got.Differences[0].Revision != id && got.Differences[len(got.Differences)-1].Revision != id {
		t.Fatalf("%+v, %v", got, err)
	}
}

func TestRefusals(t *testing.T) {
	w := kinetest.New(t, filepath.Join(t.TempDir(), "state.db"), false)
	h := NewHandler(asker(w.Path))
	for _, tt := range []struct {
		method, query string
		status        int
	}{
		{"GET", "", 200},
		{"GET", "?at=0&after=0&up_to=2&parts=4", 200},
		{"POST", "", 405},
		{"GET", "?at=x", 400},
		{"GET", "?parts=65", 400},
		{"GET", "?parts=9223372036854775807", 400},
		{"GET", "?parts=-9223372036854775808", 400},
		{"GET", "?after=5&up_to=4", 400},
		{"GET", "?up_to=99999999999999999999", 400},
	} {
		rec := httptest.NewRecorder()
		h.ServeHTTP(rec, httptest.NewRequest(tt.method, Path+tt.query, nil))
		if rec.Code != tt.status {
			t.Errorf("%s %s: %d %s", tt.method, tt.query, rec.Code, rec.Body)
		}
	}
	gone := Ask(getter(t, NewHandler(asker(w.Path+".none"))))
	if _, err := gone(t.Context(), kine.Query{}); err == nil || !strings.Contains(err.Error(), "503") {
		t.Error(err)
	}
	broken := errors.New("no route")
	if _, err := Ask(func(context.Context, string) (*http.Response, error) { return nil, broken })(t.Context(), kine.Query{}); !errors.Is(err, broken) {
		t.Error(err)
	}
	// Who waits behind another query and gives up, gets nothing and holds nothing.
	h.one <- struct{}{}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	rec := httptest.NewRecorder()
	h.ServeHTTP(rec, httptest.NewRequest("GET", Path, nil).WithContext(ctx))
	if rec.Body.Len() != 0 {
		t.Errorf("%s", rec.Body)
	}
	<-h.one
}

// FuzzAsk: an answer is a reply or an error, and no more of it is read than may
// be, though it does not end.
func FuzzAsk(f *testing.F) {
	f.Add(200, []byte(`{"head":3,"compact":1,"sums":[{"rows":1,"digest":"00112233445566778899aabbccddeeff"}]}`), false)
	f.Add(200, []byte(`{"head":3,"list":[{"revision":3,"name":"a","digest":"00112233445566778899aabbccddeeff"}],"more":true}`), false)
	f.Add(200, []byte(`{"sums":[{"digest":"zz"}]}`), false)
	f.Add(200, []byte(`{"sums":[`), true)
	f.Add(503, []byte("closed"), true)
	f.Fuzz(func(t *testing.T, status int, body []byte, goesOn bool) {
		read := &counter{r: bytes.NewReader(body)}
		if goesOn && len(body) < 12 { // a megabyte is slow
			read.r = io.MultiReader(read.r, blanks{})
		}
		get := func(context.Context, string) (*http.Response, error) {
			return &http.Response{StatusCode: status, Body: io.NopCloser(read)}, nil
		}
		reply, err := Ask(get)(t.Context(), kine.Query{})
		if status != http.StatusOK && err == nil || read.n > MaxReply {
			t.Fatalf("%v after %d bytes", err, read.n)
		}
		if err != nil {
			return
		}
		// What was understood means the same to the next one who asks.
		var w bytes.Buffer
		if err := json.NewEncoder(&w).Encode(reply); err != nil {
			t.Fatal(err)
		}
		read = &counter{r: &w}
		if again, err := Ask(get)(t.Context(), kine.Query{}); err != nil || fmt.Sprint(again) != fmt.Sprint(reply) {
			t.Fatalf("%v became %v, %v", reply, again, err)
		}
	})
}

// FuzzQuery: what somebody asks is answered if it is within its bounds, and means the same
// when it is asked by Ask.
func FuzzQuery(f *testing.F) {
	f.Add("at=5&after=0&up_to=9&parts=16")
	f.Add("at=9223372036854775807&after=-1&parts=99999999999")
	f.Add("at=%31&at=2;parts=x")
	f.Fuzz(func(t *testing.T, text string) {
		v, err := url.ParseQuery(text)
		if err != nil {
			return
		}
		q, err := parse(v)
		if err != nil {
			return
		}
		if q.Parts < 0 || q.Parts > kine.MaxParts || q.At < 0 || q.After < 0 || q.UpTo < q.After {
			t.Fatalf("%q is %+v", text, q)
		}
		asked := errors.New("asked")
		_, err = Ask(func(_ context.Context, uri string) (*http.Response, error) {
			u, err := url.ParseRequestURI(uri)
			if err != nil {
				t.Fatal(err)
			}
			if again, err := parse(u.Query()); err != nil || again != q || u.Path != Path {
				t.Fatalf("%+v became %+v, %v", q, again, err)
			}
			return nil, asked
		})(t.Context(), q)
		if !errors.Is(err, asked) {
			t.Fatal(err)
		}
	})
}

type blanks struct{}

func (blanks) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = ' '
	}
	return len(p), nil
}

type counter struct {
	r io.Reader
	n int
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += n
	return n, err
}
