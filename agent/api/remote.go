package api

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"time"
)

// Access is what somebody on another host was given.
type Access struct {
	Name    string     `json:"name"`
	Role    AccessRole `json:"role"`
	Nodes   []string   `json:"nodes,omitempty"`   // limited to these
	Actions []string   `json:"actions,omitempty"` // limited to these
	Expires time.Time  `json:"expires"`
	By      string     `json:"by,omitempty"`
	Created time.Time  `json:"created,omitzero"`
}

// AccessList is all of it, by name.
type AccessList struct {
	Access []Access `json:"access"`
}

// AccessRequest asks for a new one. The key is made by who asks, and never travels.
type AccessRequest struct {
	Name      string     `json:"name"`
	Role      AccessRole `json:"role"`
	Seconds   int64      `json:"ttl_seconds"`
	Nodes     []string   `json:"nodes,omitempty"`
	Actions   []string   `json:"actions,omitempty"`
	PublicKey []byte     `json:"public_key"` // ed25519
}

// AccessCreated is the answer.
type AccessCreated struct {
	Access      Access   `json:"access"`
	Cluster     string   `json:"cluster"`
	CA          []byte   `json:"ca"`          // DER
	Certificate []byte   `json:"certificate"` // DER
	Addresses   []string `json:"addresses"`   // host:port of the members
}

// Grants keeps the accesses; who calls may do it: the server has seen to that.
type Grants interface {
	AccessList(ctx context.Context) (AccessList, error)
	AccessCreate(ctx context.Context, r AccessRequest) (AccessCreated, error)
	AccessRevoke(ctx context.Context, name string) (Done, error)
	// Granted is what the certificate with serial may do now; an error if nothing.
	Granted(name, serial string) (Access, error)
}

// remoteConn is a connection whose owner showed the certificate of an access.
type remoteConn interface {
	Access() (name, serial string)
}

type remoteKey struct{}

type remoteWho struct{ name, serial, from string }

func withRemote(ctx context.Context, c net.Conn) context.Context {
	r, ok := unwrap(c).(remoteConn)
	if !ok {
		return ctx
	}
	name, serial := r.Access()
	from, _, err := net.SplitHostPort(c.RemoteAddr().String())
	if err != nil {
		from = c.RemoteAddr().String()
	}
	return context.WithValue(ctx, remoteKey{}, remoteWho{name, serial, from})
}

// remote is who asks over the peer port. What is granted is looked up for each request:
// what was revoked ends at once, also on a connection that is open.
func (s *Server) remote(r *http.Request) Who {
	c, ok := r.Context().Value(remoteKey{}).(remoteWho)
	if !ok || s.cfg.Grants == nil {
		return Who{Name: "somebody unknown", Role: NoAccess, Remote: true}
	}
	w := Who{Name: c.name, From: c.from, Role: NoAccess, Remote: true}
	g, err := s.cfg.Grants.Granted(c.name, c.serial)
	if err != nil {
		w.why = err
		return w
	}
	w.Role, w.Nodes, w.Actions = g.Role, g.Nodes, g.Actions
	return w
}

// access mounts what is asked and done about accesses.
func (s *Server) access(mux *http.ServeMux) {
	g := s.cfg.Grants
	if g == nil {
		return
	}
	answer(mux, "/v1/access", g.AccessList, func(v *AccessList) { some(&v.Access) })
	change(mux, "/v1/access", g.AccessCreate, func(in AccessRequest) string { return in.Name + " as " + string(in.Role) })
	change(mux, "/v1/access/revoke", func(ctx context.Context, in named) (Done, error) { return g.AccessRevoke(ctx, in.Name) },
		func(in named) string { return in.Name })
}

type named struct {
	Name string `json:"name"`
}

// change mounts a request that changes something; who may was seen to by guard. target
// says for the audit whom or what it is about.
func change[In, Out any](mux *http.ServeMux, path string, f func(context.Context, In) (Out, error), target func(In) string) {
	mux.HandleFunc("POST "+path, func(w http.ResponseWriter, r *http.Request) {
		var in In
		dec := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxOrder))
		dec.DisallowUnknownFields()
		if err := dec.Decode(&in); err != nil {
			fail(w, http.StatusBadRequest, "the request is not understood: "+err.Error())
			return
		}
		concerns(w, target(in))
		out, err := f(r.Context(), in)
		if err != nil {
			fail(w, http.StatusConflict, err.Error())
			return
		}
		write(w, out)
	})
}

// AccessList asks who was given access.
func (c *Client) AccessList(ctx context.Context) (AccessList, error) {
	return get[AccessList](ctx, c, "access")
}

// AccessCreate asks for one.
func (c *Client) AccessCreate(ctx context.Context, r AccessRequest) (AccessCreated, error) {
	return post[AccessCreated](ctx, c, "access", r)
}

// AccessRevoke ends one.
func (c *Client) AccessRevoke(ctx context.Context, name string) (Done, error) {
	return post[Done](ctx, c, "access/revoke", map[string]string{"name": name})
}

// NewRemoteClient makes a client that reaches an agent by dial, for instance over the
// peer port; where is told to people.
func NewRemoteClient(where string, dial func(context.Context) (net.Conn, error)) *Client {
	c := NewClient("")
	c.where = where
	c.http.Transport.(*http.Transport).DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
		conn, err := dial(ctx)
		if err != nil {
			return nil, &dialError{where, err}
		}
		return conn, nil
	}
	return c
}

// dialError keeps what was tried out of what net/http would wrap it in.
type dialError struct {
	where string
	err   error
}

func (e *dialError) Error() string { return fmt.Sprintf("reach %s: %v", e.where, e.err) }
func (e *dialError) Unwrap() error { return e.err }
