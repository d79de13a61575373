package control

import (
	"context"
	"slices"
	"sync"
)

// Listeners pass news on without ever holding up who has them: to each listener
// in order, and what it has not heard of yet only once. Stores and platforms
// use it for Watch and Changes. The zero value is ready.
type Listeners[K comparable] struct {
	mu   sync.Mutex
	subs map[*listener[K]]struct{}
}

type listener[K comparable] struct {
	mu     sync.Mutex
	unsaid []K
	more   chan struct{}
}

// Listen sends what is told from now on, until ctx ends; then the channel closes.
func (l *Listeners[K]) Listen(ctx context.Context) <-chan K {
	one := &listener[K]{more: make(chan struct{}, 1)}
	l.mu.Lock()
	if l.subs == nil {
		l.subs = map[*listener[K]]struct{}{}
	}
	l.subs[one] = struct{}{}
	l.mu.Unlock()

	out := make(chan K)
	go func() {
		defer close(out)
		defer l.drop(one)
		for {
			select {
			case <-ctx.Done():
				return
			case <-one.more:
			}
			for _, k := range one.take() {
				select {
				case <-ctx.Done():
					return
				case out <- k:
				}
			}
		}
	}()
	return out
}

// Tell passes news to every listener. It never blocks.
func (l *Listeners[K]) Tell(news K) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for one := range l.subs {
		one.mu.Lock()
		if !slices.Contains(one.unsaid, news) {
			one.unsaid = append(one.unsaid, news)
		}
		one.mu.Unlock()
		ring(one.more)
	}
}

func (l *Listeners[K]) drop(one *listener[K]) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.subs, one)
}

func (l *listener[K]) take() []K {
	l.mu.Lock()
	defer l.mu.Unlock()
	said := l.unsaid
	l.unsaid = nil
	return said
}
