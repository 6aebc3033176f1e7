package api

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"time"
)

// Event is something that somebody wanted to change.
type Event struct {
	Who            Who
	Action, Target string
	Outcome        string // Carried, Refused or Denied
	Why            string // the reason that the person gave, or why not
}

// Outcomes of an event.
const (
	Carried = "done"    // out
	Refused = "refused" // not now
	Denied  = "denied"  // not by this one
)

// Audit is who did what from where, newest first.
type Audit struct {
	Records []AuditRecord `json:"records"`
	Failed  []string      `json:"members_without_answer,omitempty"` // and why
}

// AuditRecord is one event, as a member wrote it down.
type AuditRecord struct {
	At      time.Time `json:"at"`
	Node    string    `json:"node"` // who wrote it down
	Term    uint64    `json:"term"`
	By      string    `json:"by,omitempty"`
	From    string    `json:"from,omitempty"` // the socket with a user id, or an address
	Action  string    `json:"action"`
	Target  string    `json:"target,omitempty"`
	Outcome string    `json:"outcome"` // done, refused, denied
	Why     string    `json:"why,omitempty"`
}

func (s *Server) event(e Event) {
	if s.cfg.Event != nil {
		s.cfg.Event(e)
	}
}

// told hands a request that changes something on to h, and tells what became of it.
func (s *Server) told(h http.Handler, w http.ResponseWriter, r *http.Request, who Who) {
	if r.Method == http.MethodGet || r.Method == http.MethodHead || r.URL.Path == pathDo {
		h.ServeHTTP(w, r) // orders tell themselves: they know their verb
		return
	}
	e := Event{Who: who, Action: changeOf(r), Outcome: Carried}
	seen := &outcome{ResponseWriter: w}
	h.ServeHTTP(seen, r)
	var f Failure
	if seen.code >= 400 {
		e.Outcome = Refused
		if json.Unmarshal(seen.body.Bytes(), &f) == nil {
			e.Why = f.Error
		}
	}
	e.Target = seen.target
	s.event(e)
}

// outcome remembers how a request ended.
type outcome struct {
	http.ResponseWriter
	code   int
	body   bytes.Buffer // of a failure
	target string
}

func (o *outcome) WriteHeader(code int) {
	o.code = code
	o.ResponseWriter.WriteHeader(code)
}

func (o *outcome) Write(b []byte) (int, error) {
	if o.code >= 400 && o.body.Len()+len(b) <= maxOrder {
		o.body.Write(b)
	}
	return o.ResponseWriter.Write(b)
}

// concerns tells the audit whom or what a request is about.
func concerns(w http.ResponseWriter, target string) {
	if o, ok := w.(*outcome); ok {
		o.target = target
	}
}

// Audit asks who did what.
func (c *Client) Audit(ctx context.Context) (Audit, error) { return get[Audit](ctx, c, "audit") }
