//go:build unix

package chaos

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// crew is the processes of a round. One that ends by itself is started again, as whoever runs
// services does.
type crew struct {
	log   io.Writer // what they complain of
	posts []*post

	mu   sync.Mutex
	said map[string]string // what became of each transaction, as its writer said

	supervisors sync.WaitGroup
	ended       atomic.Int64 // how often one ended by itself
}

// post is a place that one process after the other holds.
type post struct {
	part part
	done chan struct{} // closed when nobody holds it any more

	mu         sync.Mutex
	process    *os.Process // nil while nobody does
	generation int
	stay       time.Duration // how long nobody is to hold it once this process has ended
	killed     bool
	dismissed  chan struct{}
}

// again is after how long a process that ended by itself is started again.
const again = 300 * time.Millisecond

// hire starts a process and keeps one there.
func (c *crew) hire(p part) {
	place := &post{part: p, done: make(chan struct{}), dismissed: make(chan struct{})}
	c.posts = append(c.posts, place)
	c.supervisors.Go(func() {
		defer close(place.done)
		for {
			err := c.hold(place)
			wait, over := place.next()
			if over {
				return
			}
			if wait == 0 {
				wait = again
				c.ended.Add(1)
				fmt.Fprintf(c.log, "%s ended by itself: %v\n", p.Name, err)
			}
			select {
			case <-time.After(wait):
			case <-place.dismissed:
				return
			}
		}
	})
}

// next is what is to follow on the end of a process.
func (p *post) next() (wait time.Duration, over bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.dismissed:
		return 0, true
	default:
	}
	if p.killed {
		p.killed = false
		return p.stay, false
	}
	return 0, false
}

// hold runs one process until it ends.
func (c *crew) hold(place *post) error {
	path, err := os.Executable()
	if err != nil {
		return err
	}
	place.mu.Lock()
	p := place.part
	p.Name = fmt.Sprintf("%s.%d", p.Name, place.generation)
	p.Seed += uint64(place.generation)
	place.generation++
	place.mu.Unlock()
	text, err := json.Marshal(p)
	if err != nil {
		return err
	}
	command := exec.Command(path)
	command.Env = append(os.Environ(), roleVariable+"="+string(text))
	command.Stderr = c.log
	stdin, err := command.StdinPipe() // its end is that of the process
	if err != nil {
		return err
	}
	defer func() { _ = stdin.Close() }()
	stdout, err := command.StdoutPipe()
	if err != nil {
		return err
	}
	if err := command.Start(); err != nil {
		return err
	}
	place.set(command.Process)
	for lines := bufio.NewScanner(stdout); lines.Scan(); {
		c.note(lines.Text())
	}
	place.set(nil)
	return command.Wait()
}

func (p *post) set(process *os.Process) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.process = process
}

// note keeps what a writer said.
func (c *crew) note(line string) {
	what, txn, ok := strings.Cut(line, " ")
	if !ok {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.said[txn] = what
}

// of is the posts of a role.
func (c *crew) of(role string) (posts []*post) {
	for _, p := range c.posts {
		if p.part.Role == role {
			posts = append(posts, p)
		}
	}
	return posts
}

// signal sends one to whoever holds the post, if somebody does.
func (p *post) signal(s syscall.Signal) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.process != nil {
		_ = p.process.Signal(s) // it may just have ended
	}
}

// kill kills whoever holds the post, and leaves it empty for a time.
func (p *post) kill(empty time.Duration) {
	p.mu.Lock()
	p.killed, p.stay = p.process != nil, empty
	p.mu.Unlock()
	p.signal(syscall.SIGKILL)
}

// freeze stops whoever holds the post, and continues it.
func (p *post) freeze(length time.Duration) {
	p.signal(syscall.SIGSTOP)
	<-time.After(length)
	p.signal(syscall.SIGCONT)
}

// stopTimeout is how long a process may take to end cleanly: longer than
// relay.Config.ShutdownTimeout twice.
const stopTimeout = 45 * time.Second

// dismiss ends the processes of some roles cleanly; one that does not end is killed, and an error.
func (c *crew) dismiss(roles ...string) (err error) {
	var leaving []*post
	for _, role := range roles {
		leaving = append(leaving, c.of(role)...)
	}
	for _, p := range leaving {
		p.mu.Lock()
		select {
		case <-p.dismissed:
		default:
			close(p.dismissed)
		}
		p.mu.Unlock()
		p.signal(syscall.SIGTERM)
	}
	deadline := time.After(stopTimeout)
	late := false
	for _, p := range leaving {
		if !late {
			select {
			case <-p.done:
				continue
			case <-deadline:
				late = true
			}
		}
		select {
		case <-p.done:
		default:
			err = errors.Join(err, fmt.Errorf("%s goes on %s after SIGTERM", p.part.Name, stopTimeout))
			p.signal(syscall.SIGQUIT) // its goroutines go to the log
			p.signal(syscall.SIGCONT)
			select {
			case <-p.done:
			case <-time.After(10 * time.Second):
				p.signal(syscall.SIGKILL)
				<-p.done
			}
		}
	}
	return err
}
