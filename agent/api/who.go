package api

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/user"
	"slices"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

type whoKey struct{}

// WhoOf says who made the request that a [Source] answers, and with which role.
func WhoOf(ctx context.Context) (Who, bool) {
	w, ok := ctx.Value(whoKey{}).(Who)
	return w, ok
}

func withWho(ctx context.Context, w Who) context.Context {
	return context.WithValue(ctx, whoKey{}, w)
}

// guard lets a request through to h if who sends it may. Orders are judged where their
// verb is read, see order.
func (s *Server) guard(h http.Handler, who func(*http.Request) Who) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		caller := who(r)
		if r.Header.Get("Origin") != "" {
			fail(w, http.StatusForbidden, "web pages may not ask this agent")
			return
		}
		if r.URL.Path != pathDo {
			if err := caller.May(actionOf(r), s.cfg.Node); err != nil {
				s.denied(w, caller, actionOf(r), err)
				return
			}
		}
		s.told(h, w, r.WithContext(withWho(r.Context(), caller)), caller)
	})
}

// actionOf a request: the first word after the version. What changes something is not
// allowed by being a question of the same name.
func actionOf(r *http.Request) string {
	word, _, _ := strings.Cut(strings.TrimPrefix(strings.TrimPrefix(r.URL.Path, "/v1"), "/"), "/")
	if r.Method != http.MethodGet && r.Method != http.MethodHead && LowestRole(word) != Admin {
		return r.Method + " " + word
	}
	return word
}

// changeOf is what a request that changes something is called in the audit: its path
// without the version, "access revoke"; what makes something new has "create" behind.
func changeOf(r *http.Request) string {
	words := strings.ReplaceAll(strings.TrimPrefix(strings.TrimPrefix(r.URL.Path, "/v1"), "/"), "/", " ")
	if words != "" && !strings.Contains(words, " ") {
		words += " create"
	}
	return words
}

// denied answers, and tells whom it concerns.
func (s *Server) denied(w http.ResponseWriter, caller Who, action string, err error) {
	s.event(Event{Who: caller, Action: action, Outcome: Denied, Why: err.Error()})
	fail(w, http.StatusForbidden, err.Error())
}

// local is who asks over the socket, as the kernel knows it.
func (s *Server) local(r *http.Request) Who {
	c, ok := CallerOf(r.Context())
	if !ok {
		return Who{Name: "somebody unknown", From: "the socket", Role: NoAccess}
	}
	w := Who{Name: userName(c.UID), From: fmt.Sprintf("the socket, uid %d", c.UID), Role: s.cfg.Others}
	switch gid, known := groupOf(s.cfg.Group); {
	case c.UID == 0, c.UID == uint32(os.Geteuid()): // who may stop the agent and read its keys
		w.Role = Admin
	case known && (c.GID == gid || slices.Contains(c.Groups, gid)):
		w.Role = Operator
	}
	return w
}

func userName(uid uint32) string {
	id := strconv.Itoa(int(uid))
	if u, err := user.LookupId(id); err == nil {
		return u.Username
	}
	return "uid " + id
}

func groupOf(name string) (gid uint32, ok bool) {
	if name == "" {
		return 0, false
	}
	g, err := user.LookupGroup(name)
	if err != nil {
		return 0, false
	}
	n, err := strconv.ParseUint(g.Gid, 10, 32)
	return uint32(n), err == nil
}

// maxGroups bounds what is read of a caller's groups; the kernel allows 65536.
const maxGroups = 65536

// peerGroups asks the kernel for the supplementary groups of the process at the other
// end: the ones it had when it connected.
func peerGroups(fd uintptr) []uint32 {
	for n := 64; n <= maxGroups; {
		buf := make([]uint32, n)
		size := uint32(4 * n)
		_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, fd, unix.SOL_SOCKET, unix.SO_PEERGROUPS,
			uintptr(unsafe.Pointer(&buf[0])), uintptr(unsafe.Pointer(&size)), 0)
		switch {
		case errno == unix.ERANGE && int(size) > 4*n:
			n = int(size) / 4
		case errno != 0 || int(size) > 4*n:
			return nil
		default:
			return buf[:size/4]
		}
	}
	return nil
}

// unwrap finds the connection below the limit on their number.
func unwrap(c net.Conn) net.Conn {
	if l, ok := c.(*limitedConn); ok {
		return l.Conn
	}
	return c
}
