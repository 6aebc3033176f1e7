package hosts

import (
	"context"
	"fmt"
	"time"
)

// Until calls f every 50 ms until it returns nil. When ctx ends first, the error
// says what was waited for, how long, and what f said last.
func Until(ctx context.Context, what string, f func(context.Context) error) error {
	start := time.Now()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	var last error
	for {
		err := f(ctx)
		if err == nil {
			return nil
		}
		if last == nil || ctx.Err() == nil { // the end of ctx is no reason
			last = err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waited %.1f s for: %s: %w", time.Since(start).Seconds(), what, last)
		case <-tick.C:
		}
	}
}
