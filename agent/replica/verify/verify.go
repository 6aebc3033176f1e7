// Package verify carries kine.Compare between two hosts: a Handler on the side
// that is asked, an Ask on the side that compares. One query is one GET, its
// answer JSON of at most MaxReply bytes.
package verify

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"relevo.dev/relevo/agent/replica/kine"
)

// Path is where a Handler is meant to be mounted.
const Path = "/v1/replica/sums"

// MaxReply bounds an answer: a list of rows with the longest keys that
// Kubernetes has needs a quarter of it.
const MaxReply = 1 << 20

// Handler answers queries about one database. Who may ask is for the caller to
// decide; a query for everything reads everything, at most one at a time.
type Handler struct {
	answer kine.Ask
	one    chan struct{}
}

// NewHandler makes a Handler. answer is what reads the database, as Reader.Answer does.
func NewHandler(answer kine.Ask) *Handler {
	return &Handler{answer: answer, one: make(chan struct{}, 1)}
}

// ServeHTTP answers GET with the fields of a kine.Query as parameters; a missing
// one is 0. 400 for a malformed query, 503 with a line of text if there is no
// answer at the moment.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet {
		http.Error(w, "only GET", http.StatusMethodNotAllowed)
		return
	}
	q, err := parse(r.URL.Query())
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	select {
	case h.one <- struct{}{}:
		defer func() { <-h.one }()
	case <-r.Context().Done():
		return
	}
	reply, err := h.answer(r.Context(), q)
	if err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	// Whoever hung up does not read why.
	_ = json.NewEncoder(w).Encode(reply)
}

func parse(v url.Values) (q kine.Query, err error) {
	var parts int64
	for name, to := range map[string]*int64{"at": &q.At, "after": &q.After, "up_to": &q.UpTo, "parts": &parts} {
		text := v.Get(name)
		if text == "" {
			continue
		}
		if *to, err = strconv.ParseInt(text, 10, 64); err != nil {
			return q, fmt.Errorf("%s=%q is no number", name, text)
		}
	}
	q.Parts = int(min(max(parts, -1), kine.MaxParts+1)) // too much stays too much
	return q, q.Valid()
}

// Getter asks a host: a GET of uri (path and query). The answer's body is
// closed.
type Getter func(ctx context.Context, uri string) (*http.Response, error)

// Ask returns the other side of a comparison.
func Ask(get Getter) kine.Ask {
	return func(ctx context.Context, q kine.Query) (kine.Reply, error) {
		v := url.Values{}
		for name, n := range map[string]int64{"at": q.At, "after": q.After, "up_to": q.UpTo, "parts": int64(q.Parts)} {
			v.Set(name, strconv.FormatInt(n, 10))
		}
		res, err := get(ctx, Path+"?"+v.Encode())
		if err != nil {
			return kine.Reply{}, fmt.Errorf("ask for the checksums of its datastore: %w", err)
		}
		defer res.Body.Close()
		body := io.LimitReader(res.Body, MaxReply)
		if res.StatusCode != http.StatusOK {
			text, _ := io.ReadAll(io.LimitReader(body, 1<<10))
			return kine.Reply{}, fmt.Errorf("ask for the checksums of its datastore: %s (%s)", strings.TrimSpace(string(text)), res.Status)
		}
		var reply kine.Reply
		if err := json.NewDecoder(body).Decode(&reply); err != nil {
			return kine.Reply{}, fmt.Errorf("ask for the checksums of its datastore: %w", err)
		}
		return reply, nil
	}
}
