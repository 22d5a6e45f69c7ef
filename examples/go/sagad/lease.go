// Package sagad is what a worker of sagad needs beside the generated client: two files, made to be copied.
//
// This one has the connection, what an error means, and [Lease], which keeps a lease by heartbeats and says when the work
// has to stop. worker.go has [Worker], which claims, works and reports.
package sagad

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"math/rand/v2"
	"net/url"
	"strconv"
	"sync"
	"time"

	pb "example.com/worker/gen/sagad/v1"
	"google.golang.org/genproto/googleapis/rpc/code"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"
)

// The longest that a unary call takes.
const callTimeout = 5 * time.Second

// The pauses between the tries of a call.
const (
	retryFirst = 50 * time.Millisecond
	retryMax   = 2 * time.Second
)

// What the library may retry by itself: sagad's proto/service_config.json.
//
//go:embed service_config.json
var serviceConfig string

// Heartbeats are not sent more often, however short the lease.
const heartbeatMin = 20 * time.Millisecond

// Dial makes a channel to the coordinator at server, http://HOST:PORT. It connects with the first call, and again whenever
// it must.
func Dial(server string) (*grpc.ClientConn, error) {
	address, err := url.Parse(server)
	if err == nil {
		_, err = strconv.ParseUint(address.Port(), 10, 16)
	}
	if err != nil || address.Scheme != "http" || address.Hostname() == "" {
		return nil, fmt.Errorf("%q is not an address of the form http://HOST:PORT", server)
	}
	outage := &outage{server: server}
	return grpc.NewClient(address.Host,
		grpc.WithUnaryInterceptor(outage.unary),
		grpc.WithStreamInterceptor(outage.stream),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithNoProxy(),
		grpc.WithDefaultServiceConfig(serviceConfig),
		// By default it takes up to two minutes to notice that the coordinator is back: longer than most leases.
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second},
			MinConnectTimeout: 5 * time.Second,
		}),
		// A peer that lost power sends nothing, so it is asked.
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 5 * time.Second, PermitWithoutStream: true}),
	)
}

// While the coordinator does not answer, that is logged again after so long.
const sayAgain = 10 * time.Second

// outage logs what is waited for while the coordinator does not answer: at once, then every ten seconds; and when it answers.
// It sees all calls of a channel.
type outage struct {
	server string
	mu     sync.Mutex
	said   time.Time // zero: it answers
}

// heard takes in how a call, or a step of a stream, has ended.
func (o *outage) heard(err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	refusal := RefusalOf(err)
	switch {
	case errors.Is(err, io.EOF) || refusal.Code == codes.Canceled:
		// A stream that ends, and a call that this process gave up, say nothing about the coordinator.
	case err != nil && refusal.Again:
		if time.Since(o.said) >= sayAgain {
			o.said = time.Now()
			log.Printf("waiting for the coordinator at %s: %v", o.server, refusal)
		}
	case !o.said.IsZero():
		o.said = time.Time{}
		log.Printf("the coordinator at %s answers", o.server)
	}
}

func (o *outage) unary(ctx context.Context, method string, request, answer any, conn *grpc.ClientConn, invoke grpc.UnaryInvoker, options ...grpc.CallOption) error {
	err := invoke(ctx, method, request, answer, conn, options...)
	o.heard(err)
	return err
}

func (o *outage) stream(ctx context.Context, desc *grpc.StreamDesc, conn *grpc.ClientConn, method string, open grpc.Streamer, options ...grpc.CallOption) (grpc.ClientStream, error) {
	stream, err := open(ctx, desc, conn, method, options...)
	if err != nil {
		o.heard(err)
		return nil, err
	}
	return &heardStream{stream, o}, nil
}

type heardStream struct {
	grpc.ClientStream
	outage *outage
}

func (s *heardStream) RecvMsg(message any) error {
	err := s.ClientStream.RecvMsg(message)
	s.outage.heard(err)
	return err
}

// Refusal is an error of a call, taken apart.
type Refusal struct {
	Code codes.Code
	// Reason is the ErrorInfo's, such as LEASE_EXPIRED; without one, the name of the code, such as UNAVAILABLE.
	Reason   string
	Message  string
	Metadata map[string]string
	// RetryAfter is how long the coordinator asks to wait before another try.
	RetryAfter time.Duration
	// Judged tells that this is the coordinator's own word, not the transport's or a proxy's.
	Judged bool
	// Again tells that the call may be tried again with the same request_id: it did not happen, or that is not known.
	Again bool
}

func (r *Refusal) Error() string { return r.Reason + ": " + r.Message }

// LeaseGone tells that the lease that the call named is over: whoever holds it stops.
func (r *Refusal) LeaseGone() bool {
	return r.Judged && r.Code == codes.Aborted || r.Reason == "SAGA_TERMINAL" || r.Reason == "SAGA_NOT_FOUND"
}

// RefusalOf takes an error of a call apart.
func RefusalOf(err error) *Refusal {
	var known *Refusal
	if errors.As(err, &known) {
		return known
	}
	st := status.Convert(err)
	refusal := &Refusal{Code: st.Code(), Message: st.Message()}
	for _, detail := range st.Details() {
		switch detail := detail.(type) {
		case *errdetails.ErrorInfo:
			refusal.Reason, refusal.Metadata = detail.GetReason(), detail.GetMetadata()
		case *errdetails.RetryInfo:
			refusal.RetryAfter = detail.GetRetryDelay().AsDuration()
		}
	}
	refusal.Judged = refusal.Reason != ""
	switch st.Code() {
	case codes.Unavailable, codes.DeadlineExceeded, codes.ResourceExhausted:
		refusal.Again = true
	case codes.Unknown, codes.Internal, codes.Canceled:
		// Without the coordinator's own word it is the transport's, or a proxy's.
		refusal.Again = refusal.Reason == "" || refusal.Reason == "OUTCOME_UNKNOWN"
	}
	if refusal.Reason == "" {
		refusal.Reason = codeName(st.Code())
	}
	return refusal
}

// Call makes a unary call, again with the same request (and so the same request_id) while that may help, until giveUp has
// come or ctx is done. giveUp is asked before each try, so that it may move, as a lease's deadline does. Errors are of type
// [*Refusal].
func Call[Q, A any](ctx context.Context, giveUp func() time.Time, method func(context.Context, Q, ...grpc.CallOption) (A, error), request Q) (A, error) {
	pause := retryFirst
	for {
		end := earlier(time.Now().Add(callTimeout), giveUp())
		attempt, cancel := context.WithDeadline(ctx, end)
		answer, err := method(attempt, request)
		cancel()
		if err == nil {
			return answer, nil
		}
		refusal := RefusalOf(err)
		delay := max(Jittered(pause), refusal.RetryAfter)
		if !refusal.Again || ctx.Err() != nil || !time.Now().Add(delay).Before(giveUp()) || !Sleep(ctx, delay) {
			return answer, refusal
		}
		pause = min(2*pause, retryMax)
	}
}

// Lost is the cause of a work's end when the lease is, or may be from now on, somebody else's. Reason is the coordinator's,
// or DEADLINE.
type Lost struct{ Reason string }

func (l *Lost) Error() string { return "the lease is lost: " + l.Reason }

// Cancelled is the cause of a work's end when somebody asked for the saga to be cancelled. The lease is still held, and kept.
type Cancelled struct{ Reason string }

func (c *Cancelled) Error() string { return "cancelled: " + c.Reason }

// Lease is a lease that is kept by heartbeats from a goroutine of its own.
//
// Its deadline is this process' own, on the monotonic clock: from the moment at which the last accepted heartbeat was sent,
// for the length that was granted. The coordinator counts from when it received it, so this end is never the later one.
type Lease struct {
	// Saga is the saga as it was when it was claimed.
	Saga *pb.Saga

	sagas   pb.SagaServiceClient
	owner   string
	token   int64
	log     *slog.Logger
	ctx     context.Context
	stop    context.CancelCauseFunc
	end     context.CancelFunc
	beating sync.WaitGroup

	mu         sync.Mutex
	deadline   time.Time
	length     time.Duration
	interval   time.Duration
	expireTime time.Time // the deadline on the coordinator's clock, to be compared with its other times only
	lost       *Lost
	cancelled  *Cancelled
	reporting  bool
	progress   []byte // nil: none to be sent
}

// keep begins to keep the lease of a saga that was claimed by a call first sent at asked, to which the time is added for
// which it was held in the coordinator. ctx stops the work, not the heartbeats, which go on until close.
func keep(ctx context.Context, sagas pb.SagaServiceClient, saga *pb.Saga, asked time.Time, log *slog.Logger) *Lease {
	lease := &Lease{Saga: saga, sagas: sagas, owner: saga.GetLease().GetOwnerId(), token: saga.GetLease().GetFencingToken(), log: log}
	lease.ctx, lease.stop = context.WithCancelCause(ctx)
	lease.grant(saga.GetLease(), asked)
	beats, end := context.WithCancel(context.WithoutCancel(ctx))
	lease.end = end
	// A claim that was repeated was first sent long before the lease began: then one heartbeat, before the work begins, tells
	// where it stands.
	if received := time.Now(); lease.deadline.Sub(received) < lease.length/2 {
		lease.deadline = received.Add(lease.length)
		lease.beatUntil(ctx, true)
	}
	lease.beating.Go(func() { lease.beatUntil(beats, false) })
	return lease
}

// Context is done when the work has to stop. Its cause says why: [*Lost], [*Cancelled], or that of the worker's own context.
func (l *Lease) Context() context.Context { return l.ctx }

// Token is the lease's fencing token. What is written to can refuse one that is lower than the last it has seen.
func (l *Lease) Token() int64 { return l.token }

// Deadline is when the lease is over unless another heartbeat is accepted before.
func (l *Lease) Deadline() time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.deadline
}

// Check answers why the work has to stop, or nil. To be asked before each effect: it looks at the clock itself, so that a
// process that was suspended finds out before it does anything else.
func (l *Lease) Check() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.checkDeadline()
	if l.lost != nil {
		return l.lost
	}
	return context.Cause(l.ctx)
}

// SetProgress sends progress (at most 64 KiB) with the next heartbeat, or with the report of the end.
func (l *Lease) SetProgress(progress string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.progress = []byte(progress)
}

// unsentProgress is what no accepted heartbeat has carried yet; nil: nothing.
func (l *Lease) unsentProgress() []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.progress
}

// Register registers compensations. To be called before the effects that they undo.
func (l *Lease) Register(compensations ...*pb.CompensationSpec) error {
	_, err := under(l, l.sagas.RegisterCompensation, &pb.RegisterCompensationRequest{
		TaskId: l.Saga.GetTaskId(), OwnerId: l.owner, FencingToken: l.token,
		Compensations: compensations, RequestId: newID(),
	})
	if err != nil {
		return err
	}
	for _, compensation := range compensations {
		l.log.Info("registered", "task_id", l.Saga.GetTaskId(), "kind", compensation.GetKind(), "target", compensation.GetTarget())
	}
	return nil
}

// under makes a call that belongs to the work: only while the lease is held, and the lease is lost when the answer says so.
func under[Q, A any](l *Lease, method func(context.Context, Q, ...grpc.CallOption) (A, error), request Q) (A, error) {
	if err := l.Check(); err != nil {
		var none A
		return none, err
	}
	answer, err := Call(l.ctx, l.Deadline, method, request)
	if err != nil {
		if refusal := RefusalOf(err); refusal.LeaseGone() {
			l.mu.Lock()
			l.lose(refusal.Reason)
			l.mu.Unlock()
		}
		if stopped := l.Check(); stopped != nil {
			err = stopped
		}
	}
	return answer, err
}

// report marks the work as ended and answers what it was told before: from now on nothing is left to be stopped.
func (l *Lease) report() (lost *Lost, cancelled *Cancelled) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.checkDeadline()
	l.reporting = true
	return l.lost, l.cancelled
}

// close ends the heartbeats. It neither releases nor ends the lease.
func (l *Lease) close() {
	l.end()
	l.beating.Wait()
	l.stop(nil)
}

// beatUntil sends heartbeats until ctx is done or the lease is lost; with once, until one is answered.
func (l *Lease) beatUntil(ctx context.Context, once bool) {
	next, pause := time.Now(), retryFirst
	if !once {
		next = next.Add(l.interval)
	}
	for Sleep(ctx, time.Until(earlier(next, l.Deadline()))) {
		verdict, after := l.beat(ctx, once)
		switch {
		case verdict == gone || verdict == answered && once:
			return
		case verdict == answered:
			next, pause = time.Now().Add(l.interval), retryFirst
		case verdict == unknown:
			next, pause = time.Now().Add(min(max(Jittered(pause), after), l.interval)), min(2*pause, retryMax)
		}
	}
}

// What the answer to a heartbeat means.
type verdict int

const (
	answered verdict = iota // the lease stands: until a new deadline, or the one that it had
	unknown                 // no clear answer: work on until the deadline, try again soon
	gone                    // the lease is over
)

// beat sends one heartbeat. When the coordinator asks to wait before the next, it tells how long.
func (l *Lease) beat(ctx context.Context, first bool) (verdict, time.Duration) {
	l.mu.Lock()
	l.checkDeadline()
	progress, length, deadline, over := l.progress, l.length, l.deadline, l.lost != nil
	l.mu.Unlock()
	if over {
		return gone, 0
	}
	sent := time.Now()
	// One that is not answered leaves time for another.
	end := earlier(deadline, sent.Add(min(callTimeout, max(length/2, time.Second))))
	call, cancel := context.WithDeadline(ctx, end)
	answer, err := l.sagas.Heartbeat(call, &pb.HeartbeatRequest{
		TaskId: l.Saga.GetTaskId(), OwnerId: l.owner, FencingToken: l.token, Progress: progress,
	})
	cancel()
	if ctx.Err() != nil {
		return gone, 0 // closed: whatever came of it
	}

	l.mu.Lock()
	defer l.mu.Unlock()
	// The deadline comes first: after it, not even an answer that is already here prolongs the work.
	if l.checkDeadline(); l.lost != nil {
		return gone, 0
	}
	if err == nil {
		if bytes.Equal(l.progress, progress) {
			l.progress = nil
		}
		l.grant(answer.GetLease(), sent)
		l.log.Info("heartbeat", "task_id", l.Saga.GetTaskId(), "expire_in_ms", time.Until(l.deadline).Milliseconds())
		if answer.GetDirective() == pb.Directive_DIRECTIVE_CANCEL {
			l.cancel(answer.GetCancelReason())
		}
		return answered, 0
	}
	refusal := RefusalOf(err)
	switch {
	case refusal.Reason == "LEASE_NOT_EXTENDED" || refusal.Reason == "EXECUTION_TIMEOUT" || refusal.Reason == "PROGRESS_TIMEOUT":
		l.standsUntil(refusal.Metadata["expire_time"], first)
		if refusal.Metadata["directive"] == pb.Directive_DIRECTIVE_CANCEL.String() {
			l.cancel(refusal.Metadata["cancel_reason"])
		}
		return answered, 0
	case refusal.Judged && (refusal.Code == codes.Aborted || refusal.Code == codes.FailedPrecondition || refusal.Code == codes.NotFound):
		l.lose(refusal.Reason)
		return gone, 0
	default:
		l.log.Info("heartbeat_unknown", "task_id", l.Saga.GetTaskId(), "code", codeName(refusal.Code), "reason", refusal.Reason)
		return unknown, refusal.RetryAfter
	}
}

// grant takes in what the answer to a call that was sent at that moment granted.
func (l *Lease) grant(lease *pb.Lease, sent time.Time) {
	l.expireTime = lease.GetExpireTime().AsTime()
	// Less than the ttl where a timeout of the policy clamped it.
	l.length = l.expireTime.Sub(lease.GetHeartbeatTime().AsTime())
	l.interval = max(lease.GetHeartbeatInterval().AsDuration(), heartbeatMin)
	l.deadline = sent.Add(l.length)
}

// standsUntil takes in that the lease stands until a time of the coordinator's clock: later than known where the answer to
// an accepted heartbeat was lost. The difference of two of its times holds on our clock, too.
func (l *Lease) standsUntil(text string, first bool) {
	end, err := time.Parse(time.RFC3339Nano, text)
	if err != nil {
		end = l.expireTime
	}
	if first {
		// No time of ours is tied to it yet, so the wall clocks' word is the best there is.
		l.deadline = time.Now().Add(min(max(time.Until(end), 0), l.length))
	} else if further := end.Sub(l.expireTime); further > 0 {
		l.deadline = l.deadline.Add(further)
	}
	l.expireTime = end
}

// checkDeadline takes the lease for lost when its deadline has passed. To be called with the lock held, as those below.
func (l *Lease) checkDeadline() {
	if !time.Now().Before(l.deadline) {
		l.lose("DEADLINE")
	}
}

func (l *Lease) lose(reason string) {
	if l.lost != nil {
		return
	}
	l.lost = &Lost{Reason: reason}
	if !l.reporting {
		l.log.Info("lost", "task_id", l.Saga.GetTaskId(), "reason", reason)
	}
	l.stop(l.lost)
}

func (l *Lease) cancel(reason string) {
	// An undo is not cancelled: it is what a cancelled saga is waiting for.
	if l.cancelled != nil || l.reporting || l.Saga.GetLease().GetPurpose() == pb.LeasePurpose_LEASE_PURPOSE_COMPENSATE {
		return
	}
	l.cancelled = &Cancelled{Reason: reason}
	l.log.Info("cancelled", "task_id", l.Saga.GetTaskId(), "reason", reason)
	l.stop(l.cancelled)
}

// Jittered is half of the pause, and a random part of the other half: clients that failed together don't return together.
func Jittered(pause time.Duration) time.Duration {
	return pause/2 + rand.N(pause/2)
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

// Sleep answers whether it slept to the end; not, when ctx is done.
func Sleep(ctx context.Context, length time.Duration) bool {
	timer := time.NewTimer(length)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return ctx.Err() == nil
	}
}

// codeName is the name of a code as google.rpc.Code has it, such as DEADLINE_EXCEEDED.
func codeName(c codes.Code) string { return code.Code(c).String() }
