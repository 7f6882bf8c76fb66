// A client of the sandbox broker on NATS: claims a sandbox, reads it, extends its lease, releases it, and reads its
// events. The settings come from the environment; see README.md in the folder above.
package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"math/rand/v2"
	"os"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	attemptTime = 2 * time.Second
	overallTime = 90 * time.Second
)

// Lease is the answer to `allocate` and `extend`; nats/schemas/AllocateReply.json.
type Lease struct {
	SandboxID  string `json:"sandbox_id"`
	ExpiresAt  int64  `json:"expires_at"`
	LeaseEpoch int64  `json:"lease_epoch"`
}

// Fault is a failure in the broker's answer.
type Fault struct {
	Code       string `json:"code"`
	Message    string `json:"message"`
	RequestID  string `json:"request_id"`
	RetryAfter int    `json:"retry_after"`
	status     int
}

func (f *Fault) Error() string {
	return fmt.Sprintf("%s: %s (request %s)", f.Code, f.Message, f.RequestID)
}

// Whether a repeat may succeed: after temporary failures, and once after an internal error. For an unknown code the status
// decides.
func (f *Fault) mayRepeat(attempt int) bool {
	switch f.Code {
	case "POOL_EXHAUSTED", "CONTENDED", "NO_WORKERS", "NOT_HERE", "STORE_UNAVAILABLE", "UPSTREAM_UNAVAILABLE", "TIMEOUT":
		return true
	case "INTERNAL_ERROR":
		return attempt == 1
	}
	return f.status == 429 || f.status > 500
}

// ask repeats a request until the answer is no temporary failure. All attempts have the same body, key and request id.
func ask(ctx context.Context, nc *nats.Conn, verb, key, requestID string, body any) (*nats.Msg, error) {
	payload, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	for attempt := 1; ; attempt++ {
		reply, err := attemptOnce(ctx, nc, verb, key, requestID, payload)
		pause := 100*time.Millisecond + rand.N(400*time.Millisecond)
		var fault *Fault
		switch {
		case err == nil:
			return reply, nil
		case errors.As(err, &fault):
			if !fault.mayRepeat(attempt) {
				return nil, err
			}
			pause += time.Duration(fault.RetryAfter) * time.Second
		case errors.Is(err, nats.ErrNoResponders), errors.Is(err, context.DeadlineExceeded):
			// No worker is subscribed now, or the request or its reply was lost: it may have been done.
		default:
			return nil, err
		}
		log.Printf("%s: attempt %d: %v; again in %v", verb, attempt, err, pause)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil, fmt.Errorf("%s: out of time: %w", verb, err)
		}
	}
}

func attemptOnce(ctx context.Context, nc *nats.Conn, verb, key, requestID string, payload []byte) (*nats.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, attemptTime)
	defer cancel()
	deadline, _ := ctx.Deadline()
	message := nats.NewMsg("sandbox.v1." + verb)
	message.Data = payload
	message.Header.Set("Sandbox-Deadline-Ms", strconv.FormatInt(deadline.UnixMilli(), 10))
	message.Header.Set("X-Request-ID", requestID)
	if key != "" {
		message.Header.Set("Idempotency-Key", key)
	}
	reply, err := nc.RequestMsgWithContext(ctx, message)
	if err != nil {
		return nil, err
	}
	if status := reply.Header.Get("Nats-Service-Error-Code"); status != "" {
		body := struct{ Detail Fault }{}
		if err := json.Unmarshal(reply.Data, &body); err != nil {
			return nil, err
		}
		body.Detail.status, _ = strconv.Atoi(status)
		return nil, &body.Detail
	}
	return reply, nil
}

// connect connects as a user, or without one to a server that has none.
func connect(user, password string) (*nats.Conn, error) {
	url := cmp.Or(os.Getenv("NATS_URL"), nats.DefaultURL)
	if user == "" {
		return nats.Connect(url)
	}
	return nats.Connect(url, nats.UserInfo(user, password), nats.CustomInboxPrefix("_INBOX."+user))
}

func run(ctx context.Context) error {
	owner, key := cmp.Or(os.Getenv("OWNER"), fmt.Sprintf("example-go-%d", time.Now().UnixNano())), "first"
	user := os.Getenv("NATS_USER")
	nc, err := connect(user, os.Getenv("NATS_PASSWORD"))
	if err != nil {
		return err
	}
	defer nc.Close()
	claim := map[string]any{"owner": owner, "lab": "nats-examples"}
	first, err := ask(ctx, nc, "allocate", key, owner+"-claim", claim)
	if err != nil {
		return err
	}
	var lease Lease
	if err := json.Unmarshal(first.Data, &lease); err != nil {
		return err
	}
	fmt.Println("claimed", lease.SandboxID, first.Header.Get("Sandbox-Outcome"))

	// The same claim again is the same lease: no second sandbox.
	again, err := ask(ctx, nc, "allocate", key, owner+"-claim-again", claim)
	if err != nil {
		return err
	}
	if again.Header.Get("Sandbox-Outcome") != "existing" || string(again.Data) != string(first.Data) {
		return fmt.Errorf("a repeated claim is another one: %s", again.Data)
	}

	mine := map[string]any{"owner": owner, "sandbox_id": lease.SandboxID}
	view, err := ask(ctx, nc, "get", "", owner+"-get", mine)
	if err != nil {
		return err
	}
	fmt.Println("looks like", string(view.Data))

	more := map[string]any{
		"owner": owner, "sandbox_id": lease.SandboxID, "lab_duration_hours": 5, "lease_epoch": lease.LeaseEpoch,
	}
	extended, err := ask(ctx, nc, "extend", "", owner+"-extend", more)
	if err != nil {
		return err
	}
	ends := lease.ExpiresAt
	if err := json.Unmarshal(extended.Data, &lease); err != nil {
		return err
	}
	if lease.ExpiresAt <= ends {
		return fmt.Errorf("the lease did not get longer: %s", extended.Data)
	}

	// Another owner is refused, and asking again would not help: ask returns at once.
	var fault *Fault
	stranger := map[string]any{"owner": "another-owner", "sandbox_id": lease.SandboxID}
	if _, err = ask(ctx, nc, "get", "", owner+"-stranger", stranger); !errors.As(err, &fault) || fault.Code != "NOT_SANDBOX_OWNER" {
		return fmt.Errorf("a stranger was not refused: %v", err)
	}

	released, err := ask(ctx, nc, "release", "", owner+"-release", mine)
	if err != nil {
		return err
	}
	twice, err := ask(ctx, nc, "release", "", owner+"-release-again", mine)
	if err != nil {
		return err
	}
	if string(twice.Data) != string(released.Data) {
		return fmt.Errorf("a repeated release has another answer: %s", twice.Data)
	}
	fmt.Println("released", lease.SandboxID)
	if user != "" {
		user = "auditor"
	}
	return readEvents(ctx, user, lease.SandboxID)
}

// readEvents reads the events of one sandbox up to its release, as the user that may read only events.
func readEvents(ctx context.Context, user, id string) error {
	nc, err := connect(user, os.Getenv("NATS_PASSWORD_AUDITOR"))
	if err != nil {
		return err
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	// An ordered consumer has no state on the server. To miss no event over a restart, make a durable one.
	consumer, err := js.OrderedConsumer(ctx, "EVENTS",
		jetstream.OrderedConsumerConfig{FilterSubjects: []string{"sandbox.events.*." + id}})
	if err != nil {
		return err
	}
	messages, err := consumer.Messages()
	if err != nil {
		return err
	}
	defer messages.Stop()
	seen := map[string]bool{} // An event may come twice; its id is always the same.
	for {
		message, err := messages.Next(jetstream.NextContext(ctx))
		if err != nil {
			return err
		}
		var event struct{ ID, Type, Time string }
		if err := json.Unmarshal(message.Data(), &event); err != nil {
			return err
		}
		if seen[event.ID] {
			continue
		}
		seen[event.ID] = true
		fmt.Println("event", event.ID, event.Type, event.Time)
		if event.Type == "sandbox.released" {
			return nil
		}
	}
}

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), overallTime)
	defer cancel()
	if err := run(ctx); err != nil {
		log.Fatal(err)
	}
}
