// Package standin is the demo's control plane: a small HTTPS server that speaks
// just enough of the Kubernetes API (ConfigMaps: get, list, create, update, watch)
// on a SQLite file with kine's table. The agent cannot tell it from a real one; a
// person should: it is for `make demo` and nothing else.
package standin

import (
	"context"
	"crypto/tls"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	_ "modernc.org/sqlite"
)

// Config of a stand-in.
type Config struct {
	DB        string // kine's SQLite file; made if it is not there
	Listen    string
	CertFile  string
	KeyFile   string
	TokenFile string
}

// schema is kine's table (0.17).
const schema = `
CREATE TABLE IF NOT EXISTS kine (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT, created INTEGER, deleted INTEGER,
  create_revision INTEGER, prev_revision INTEGER, lease INTEGER, value BLOB, old_value BLOB);
CREATE INDEX IF NOT EXISTS kine_name_index ON kine (name);
CREATE INDEX IF NOT EXISTS kine_name_id_index ON kine (name,id);
CREATE INDEX IF NOT EXISTS kine_id_deleted_index ON kine (id,deleted);
CREATE INDEX IF NOT EXISTS kine_prev_revision_index ON kine (prev_revision);
CREATE UNIQUE INDEX IF NOT EXISTS kine_name_prev_revision_uindex ON kine (name, prev_revision);
INSERT INTO kine (name, created, deleted, create_revision, prev_revision, lease)
  SELECT 'compact_rev_key', 1, 0, 0, 0, 0 WHERE NOT EXISTS (SELECT 1 FROM kine WHERE name = 'compact_rev_key');`

type server struct {
	db    *sql.DB
	token string

	mu      sync.Mutex
	changed chan struct{} // closed and replaced at every write
}

// Open opens kine's SQLite file at path; an empty one gets kine's table.
func Open(ctx context.Context, path string) (*sql.DB, error) {
	db, err := sql.Open("sqlite", "file:"+path+"?_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)&_pragma=busy_timeout(5000)&_txlock=immediate")
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(4)
	if _, err := db.ExecContext(ctx, schema); err != nil {
		db.Close()
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	return db, nil
}

// Serve runs until ctx ends.
func Serve(ctx context.Context, cfg Config) error {
	token, err := os.ReadFile(cfg.TokenFile)
	if err != nil {
		return err
	}
	db, err := Open(ctx, cfg.DB)
	if err != nil {
		return err
	}
	defer db.Close()
	cert, err := tls.LoadX509KeyPair(cfg.CertFile, cfg.KeyFile)
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", cfg.Listen)
	if err != nil {
		return err
	}
	s := &server{db: db, token: strings.TrimSpace(string(token)), changed: make(chan struct{})}
	h := &http.Server{Handler: s.handler(), ReadHeaderTimeout: 5 * time.Second, BaseContext: func(net.Listener) context.Context { return ctx }}
	stop := context.AfterFunc(ctx, func() { h.Close() })
	defer stop()
	err = h.Serve(tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS13, NextProtos: []string{"http/1.1"}}))
	if ctx.Err() != nil {
		return nil
	}
	return err
}

const collection = "/api/v1/namespaces/{ns}/configmaps"

func (s *server) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		if err := s.db.PingContext(r.Context()); err != nil {
			http.Error(w, "[-]datastore failed", http.StatusInternalServerError)
			return
		}
		fmt.Fprintln(w, "[+]datastore ok")
	})
	mux.HandleFunc("GET "+collection, s.list)
	mux.HandleFunc("POST "+collection, s.write)
	mux.HandleFunc("GET "+collection+"/{name}", s.get)
	mux.HandleFunc("PUT "+collection+"/{name}", s.write)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer "+s.token {
			fail(w, http.StatusUnauthorized, "Unauthorized", "no valid token")
			return
		}
		mux.ServeHTTP(w, r)
	})
}

func fail(w http.ResponseWriter, code int, reason, msg string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	json.NewEncoder(w).Encode(status(code, reason, msg))
}

func status(code int, reason, msg string) map[string]any {
	return map[string]any{"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason, "message": msg}
}

type object struct {
	Kind       string            `json:"kind"`
	APIVersion string            `json:"apiVersion"`
	Metadata   map[string]any    `json:"metadata"`
	Data       map[string]string `json:"data,omitempty"`
}

func key(r *http.Request, name string) string {
	return "/registry/configmaps/" + r.PathValue("ns") + "/" + name
}

func decode(value []byte, rev int64) (object, error) {
	var o object
	err := json.Unmarshal(value, &o)
	if o.Metadata == nil {
		o.Metadata = map[string]any{}
	}
	o.Metadata["resourceVersion"] = strconv.FormatInt(rev, 10)
	return o, err
}

func (s *server) get(w http.ResponseWriter, r *http.Request) {
	var rev int64
	var value []byte
	err := s.db.QueryRowContext(r.Context(), `SELECT id, value FROM kine WHERE name = ? AND deleted = 0 ORDER BY id DESC LIMIT 1`, key(r, r.PathValue("name"))).Scan(&rev, &value)
	s.answer(w, rev, value, err)
}

func (s *server) answer(w http.ResponseWriter, rev int64, value []byte, err error) {
	switch {
	case errors.Is(err, sql.ErrNoRows):
		fail(w, http.StatusNotFound, "NotFound", "no such object")
	case err != nil:
		fail(w, http.StatusInternalServerError, "InternalError", err.Error())
	default:
		o, err := decode(value, rev)
		if err != nil {
			fail(w, http.StatusInternalServerError, "InternalError", err.Error())
			return
		}
		w.Header().Set("Content-Type", "application/json")
		json.NewEncoder(w).Encode(o)
	}
}

// write creates or replaces; it answers after the commit is on the disk.
func (s *server) write(w http.ResponseWriter, r *http.Request) {
	var o object
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<20)).Decode(&o); err != nil {
		fail(w, http.StatusBadRequest, "BadRequest", err.Error())
		return
	}
	name, _ := o.Metadata["name"].(string)
	rev, value, err := s.commit(r.Context(), key(r, name), o, r.Method == http.MethodPost)
	switch {
	case errors.Is(err, errConflict):
		fail(w, http.StatusConflict, "AlreadyExists", err.Error())
	default:
		s.answer(w, rev, value, err)
	}
}

var errConflict = errors.New("the object exists, or has changed")

func (s *server) commit(ctx context.Context, key string, o object, create bool) (rev int64, value []byte, err error) {
	if value, err = json.Marshal(o); err != nil {
		return 0, nil, err
	}
	tx, err := s.db.BeginTx(ctx, nil)
	if err != nil {
		return 0, nil, err
	}
	defer tx.Rollback()
	var prev, created int64
	var old []byte
	err = tx.QueryRowContext(ctx, `SELECT id, CASE WHEN created=1 THEN id ELSE create_revision END, value FROM kine WHERE name = ? AND deleted = 0 ORDER BY id DESC LIMIT 1`, key).Scan(&prev, &created, &old)
	switch {
	case err == nil && create:
		return 0, nil, errConflict
	case err != nil && !errors.Is(err, sql.ErrNoRows):
		return 0, nil, err
	case errors.Is(err, sql.ErrNoRows) && !create:
		return 0, nil, err
	}
	res, err := tx.ExecContext(ctx, `INSERT INTO kine (name, created, deleted, create_revision, prev_revision, lease, value, old_value) VALUES (?,?,0,?,?,0,?,?)`,
		key, create, created, prev, value, old)
	if err != nil {
		return 0, nil, err
	}
	if rev, err = res.LastInsertId(); err != nil {
		return 0, nil, err
	}
	if err := tx.Commit(); err != nil {
		return 0, nil, err
	}
	s.mu.Lock()
	close(s.changed)
	s.changed = make(chan struct{})
	s.mu.Unlock()
	return rev, value, nil
}

func (s *server) list(w http.ResponseWriter, r *http.Request) {
	if r.URL.Query().Get("watch") == "true" {
		s.watch(w, r)
		return
	}
	rows, err := s.db.QueryContext(r.Context(), `SELECT id, value FROM kine AS k WHERE name GLOB ? AND deleted = 0 AND id = (SELECT MAX(id) FROM kine WHERE name = k.name) ORDER BY name`, key(r, "*"))
	if err != nil {
		fail(w, http.StatusInternalServerError, "InternalError", err.Error())
		return
	}
	defer rows.Close()
	items := []object{}
	for rows.Next() {
		var rev int64
		var value []byte
		if err := rows.Scan(&rev, &value); err == nil {
			if o, err := decode(value, rev); err == nil && selected(r, o) {
				items = append(items, o)
			}
		}
	}
	var head int64
	s.db.QueryRowContext(r.Context(), `SELECT MAX(id) FROM kine`).Scan(&head)
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(map[string]any{"kind": "ConfigMapList", "apiVersion": "v1", "metadata": map[string]any{"resourceVersion": strconv.FormatInt(head, 10)}, "items": items})
}

func selected(r *http.Request, o object) bool {
	want, ok := strings.CutPrefix(r.URL.Query().Get("fieldSelector"), "metadata.name=")
	return !ok || o.Metadata["name"] == want
}

// watch streams what comes after a revision; one that was compacted is refused, as
// Kubernetes does.
func (s *server) watch(w http.ResponseWriter, r *http.Request) {
	after, _ := strconv.ParseInt(r.URL.Query().Get("resourceVersion"), 10, 64)
	var compacted int64
	s.db.QueryRowContext(r.Context(), `SELECT MAX(prev_revision) FROM kine WHERE name = 'compact_rev_key'`).Scan(&compacted)
	w.Header().Set("Content-Type", "application/json")
	enc := json.NewEncoder(w)
	if after > 0 && after < compacted {
		enc.Encode(map[string]any{"type": "ERROR", "object": status(http.StatusGone, "Expired", "too old resource version")})
		return
	}
	flush := http.NewResponseController(w)
	flush.Flush()
	for {
		s.mu.Lock()
		ch := s.changed
		s.mu.Unlock()
		rows, err := s.db.QueryContext(r.Context(), `SELECT id, created, value FROM kine WHERE id > ? AND name GLOB ? ORDER BY id LIMIT 500`, after, key(r, "*"))
		if err != nil {
			return
		}
		for rows.Next() {
			var created bool
			var value []byte
			if rows.Scan(&after, &created, &value) != nil {
				continue
			}
			o, err := decode(value, after)
			if err != nil || !selected(r, o) {
				continue
			}
			typ := "MODIFIED"
			if created {
				typ = "ADDED"
			}
			enc.Encode(map[string]any{"type": typ, "object": o})
		}
		rows.Close()
		flush.Flush()
		select {
		case <-ch:
		case <-r.Context().Done():
			return
		}
	}
}
