package api

import "context"

// Source knows the answers. Its methods are called from many goroutines and end
// when ctx does; an error is shown to the person who asked.
type Source interface {
	Status(ctx context.Context) (Status, error)
	Members(ctx context.Context) (Members, error)
	Services(ctx context.Context) (Services, error)
	// Browse is what others announce in the LAN. It does not wait: who asks again sees
	// more.
	Browse(ctx context.Context) (Services, error)
	Health(ctx context.Context) (Health, error)
	History(ctx context.Context) (History, error)

	// Tokens are those that let hosts join.
	Tokens(ctx context.Context) (Tokens, error)
	// Rotation is how far a change of keys is.
	Rotation(ctx context.Context) (Rotation, error)
	// Explain tells why the master of a term is the master, and what would happen now;
	// term 0 is the newest.
	Explain(ctx context.Context, term uint64) (Explanation, error)
	// Do carries out an order. Who asks may do it: the server has seen to that.
	Do(ctx context.Context, o Order) (Done, error)

	// Metrics are shown on /metrics. Families may come in any order; two of one
	// name are a mistake of the Source, and the second is left out.
	Metrics() []Metric

	// Alive returns an error if the agent's loop has not turned for too long: the
	// answer to /healthz.
	Alive(ctx context.Context) error
	// Ready returns an error while the agent is not really a member: the answer to
	// /readyz.
	Ready(ctx context.Context) error
}
