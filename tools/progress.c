/* Progress of a job. */
#include "tools/progress.h"

#include <inttypes.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#include "tools/signals.h"
#include "tools/size.h"

static const uint64_t SECOND = 1000000000;

static uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

/* On a terminal: how fast it went so far, and how long it takes at that rate. */
static void print_rate(const struct progress *p, uint64_t done, uint64_t now)
{
	double seconds = (double)(now - p->started_ns) / (double)SECOND, rate, left;
	char text[SIZE_TEXT_BYTES];

	if (seconds < 1 || !done)
		return;
	rate = (double)done / seconds;
	left = (double)(p->total - done) / rate;
	printf(" %s/s", size_format((uint64_t)rate, text));
	if (left < 360000)
		printf(", %d:%02d:%02d left", (int)left / 3600, (int)left / 60 % 60,
		       (int)left % 60);
	fputs("\033[K", stdout);
}

static void print_percent(struct progress *p, uint64_t done, uint64_t now)
{
	printf("    (%.2f/100%%)", p->percent);
	if (p->terminal)
		print_rate(p, done, now);
	fputc('\r', stdout);
	fflush(stdout);
	p->printed = p->percent;
	p->printed_ns = now;
}

/* A terminal is kept alive, five times a second; a pipe gets a line for each percent. */
static bool print_due(const struct progress *p, uint64_t now)
{
	if (p->terminal)
		return now - p->printed_ns >= SECOND / 5;
	return p->percent - p->printed >= 1;
}

void progress_begin(struct progress *p, bool shown, uint64_t total)
{
	*p = (struct progress){
		.shown = shown,
		.terminal = shown && isatty(STDOUT_FILENO),
		.total = total,
		.started_ns = now_ns(),
	};
	signals_install();
}

/* The first line, once the work has begun: until then another way of doing it may be taken. */
static void begin_line(struct progress *p)
{
	if (p->shown && !p->begun) {
		p->begun = true;
		print_percent(p, 0, p->started_ns);
	}
}

bool progress_step(void *user, uint64_t done, uint64_t total)
{
	struct progress *p = user;
	uint64_t now;

	(void)total;
	begin_line(p);
	if (p->total)
		p->percent = 100.0 * (double)done / (double)p->total;
	if (signals_report_wanted() && !p->shown)
		fprintf(stderr, "    (%.2f/100%%)\n", p->percent);
	if (p->shown) {
		now = now_ns();
		if (print_due(p, now))
			print_percent(p, done, now);
	}
	return signals_stop();
}

void progress_complete(struct progress *p)
{
	begin_line(p);
	p->percent = 100;
	if (p->shown)
		print_percent(p, p->total, now_ns());
}

void progress_end(struct progress *p)
{
	if (!p->begun)
		return;
	fputc('\n', stdout);
	fflush(stdout);
}
