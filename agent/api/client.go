package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"syscall"
	"time"
)

// maxAnswer bounds what the client reads: 50 hosts with 100 services each are
// under 2 MiB.
const maxAnswer = 8 << 20

// ErrNotRunning says that no agent listens on the socket.
var ErrNotRunning = errors.New("the agent is not running")

// ErrNotAllowed says that this user may not talk to the agent.
var ErrNotAllowed = errors.New("permission denied")

// Client asks an agent over its socket. Errors are ready to be shown: what was
// asked, why there is no answer, and what to do.
type Client struct {
	socket string
	where  string // instead of a socket; "" = the socket
	http   http.Client
}

// NewClient makes a client; nothing is connected yet.
func NewClient(socket string) *Client {
	c := &Client{socket: socket}
	c.http.Transport = &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", socket)
		},
		MaxIdleConns:           1,
		IdleConnTimeout:        30 * time.Second,
		MaxResponseHeaderBytes: maxHeader,
	}
	return c
}

// Close closes idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Status of the cluster.
func (c *Client) Status(ctx context.Context) (Status, error) { return get[Status](ctx, c, "status") }

// Members of the pool.
func (c *Client) Members(ctx context.Context) (Members, error) {
	return get[Members](ctx, c, "members")
}

// Services that are offered.
func (c *Client) Services(ctx context.Context) (Services, error) {
	return get[Services](ctx, c, "services")
}

// Browse is what others announce in the LAN.
func (c *Client) Browse(ctx context.Context) (Services, error) {
	return get[Services](ctx, c, "services?browse")
}

// Health of the members.
func (c *Client) Health(ctx context.Context) (Health, error) { return get[Health](ctx, c, "health") }

// History of the mastership.
func (c *Client) History(ctx context.Context) (History, error) {
	return get[History](ctx, c, "history")
}

func get[T any](ctx context.Context, c *Client, what string) (T, error) {
	return ask[T](ctx, c, http.MethodGet, what, nil)
}

func post[T any](ctx context.Context, c *Client, what string, in any) (T, error) {
	b, err := json.Marshal(in)
	if err != nil {
		var none T
		return none, err
	}
	return ask[T](ctx, c, http.MethodPost, what, bytes.NewReader(b))
}

func ask[T any](ctx context.Context, c *Client, method, what string, body io.Reader) (T, error) {
	var v T
	limit := 2 * askTimeout
	if method == http.MethodPost {
		limit = orderTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, "http://relevo/v1/"+what, body)
	if err != nil {
		return v, err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return v, c.explain(what, err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		return v, c.explain(what, err)
	}
	if len(b) > maxAnswer {
		return v, fmt.Errorf("ask the agent for %s: the answer is larger than %d MiB", what, maxAnswer>>20)
	}
	if resp.StatusCode != http.StatusOK {
		var f Failure
		if json.Unmarshal(b, &f) != nil || f.Error == "" {
			f.Error = resp.Status
		}
		if method == http.MethodPost {
			return v, errors.New(f.Error) // the person knows what was asked
		}
		return v, fmt.Errorf("ask the agent for %s: %s", what, f.Error)
	}
	if err := json.Unmarshal(b, &v); err != nil {
		return v, fmt.Errorf("ask the agent for %s: the answer is not understood (is the agent of another version?): %.300s", what, err) // it may quote all of it
	}
	return v, nil
}

// explain turns what the network says into what to do.
func (c *Client) explain(what string, err error) error {
	var timeout interface{ Timeout() bool }
	var unreached *dialError
	switch {
	case errors.Is(err, context.Canceled):
		return err
	case errors.As(err, &unreached):
		return unreached
	case c.where != "":
		return fmt.Errorf("ask %s for %s: %w", c.where, what, err)
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("%w (nobody listens on %s): start it with `systemctl start relevo`, or see why it stopped with `journalctl -u relevo -n 50`", ErrNotRunning, c.socket)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%w on %s: use sudo, or join the group once with `sudo adduser $USER relevo` and log in again", ErrNotAllowed, c.socket)
	case errors.As(err, &timeout) && timeout.Timeout():
		return fmt.Errorf("ask the agent for %s: no answer in time: it may hang, see `journalctl -u relevo -n 50`", what)
	}
	return fmt.Errorf("ask the agent for %s: %w", what, err)
}
