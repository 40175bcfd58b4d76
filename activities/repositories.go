package activities

import (
	"context"
	"sync"
	"time"
)

// RepositoryLook is how a repository seems to be at one moment.
type RepositoryLook struct {
	Name string `json:"name"`
	// Address is where it is, without credentials.
	Address string `json:"address,omitempty"`
	// Failure says why it cannot be used; empty if it opens.
	Failure string `json:"failure,omitempty"`
	// Locks is how many it has.
	Locks int `json:"locks"`
}

// lookLimit is how long a repository may take to answer.
const lookLimit = 30 * time.Second

// LookAtRepositories opens every repository that this worker was given. One that does not
// open is no failure. It only reads.
func (u *Upkeep) LookAtRepositories(ctx context.Context) ([]RepositoryLook, error) {
	defer heartbeat(ctx, nil)()
	names, err := u.Names()
	if err != nil {
		return nil, toFailure(err)
	}
	looks := make([]RepositoryLook, len(names))
	var all sync.WaitGroup
	for i, name := range names {
		all.Go(func() { looks[i] = u.look(ctx, name) })
	}
	all.Wait()
	return looks, toFailure(ctx.Err())
}

func (u *Upkeep) look(ctx context.Context, name string) RepositoryLook {
	ctx, cancel := context.WithTimeout(ctx, lookLimit)
	defer cancel()
	look := RepositoryLook{Name: name}
	r, err := u.Repositories(name)
	if err == nil {
		look.Address = r.Address()
		locks, failed := r.Locks(ctx, u.Run)
		look.Locks, err = len(locks), failed
	}
	switch {
	case ctx.Err() != nil:
		look.Failure = "it did not answer within " + lookLimit.String()
	case err != nil:
		look.Failure = firstWords(err)
	}
	return look
}
