/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * limit IN OUT THREADS [sync]: how fast the codec libraries themselves allow a conversion to be.
 *
 * It believes the file (x86_64, version 6, one member, no bounds checked but those of the decoders), reads the bytes of
 * a batch of adjacent pages with one pread, decodes them in THREADS threads into one reused buffer each, and writes each
 * batch with one pwrite at its rank among the stored pages. libdeflate for zlib; one decoder context a thread. Pages of
 * zeros are decoded and written as any other page. (Mapping the data instead of reading it was tried: no faster.)
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <libdeflate.h>
#include <lzo/lzo1x.h>
#include <pthread.h>
#include <snappy-c.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zstd.h>

#define PAGE 4096
#ifndef BATCH
#define BATCH 256
#endif

struct descriptor {
	int64_t offset;
	uint32_t size, flags;
	uint64_t page_flags;
};

static const unsigned char *file;
static const struct descriptor *table;
static uint64_t nr_stored;
static atomic_uint_fast64_t next_page;
static int in_fd, out_fd;

static void die(const char *what)
{
	fprintf(stderr, "limit: %s failed\n", what);
	exit(1);
}

static uint32_t u32(size_t offset)
{
	uint32_t value;

	memcpy(&value, file + offset, 4);
	return value;
}

/* Read the stored bytes of a batch; return where in the file they start. The data of adjacent pages is adjacent. */
static int64_t read_batch(const struct descriptor *first, const struct descriptor *end, unsigned char *stage)
{
	int64_t start = first->offset;
	size_t size = (size_t)(end[-1].offset + end[-1].size - start);

	if (size > BATCH * PAGE || pread(in_fd, stage, size, start) != (ssize_t)size)
		die("reading adjacent pages");
	return start;
}

static void *worker(void *unused)
{
	struct libdeflate_decompressor *inflater = libdeflate_alloc_decompressor();
	ZSTD_DCtx *zstd = ZSTD_createDCtx();
	unsigned char *buffer = aligned_alloc(PAGE, BATCH * PAGE);
	unsigned char *stage = aligned_alloc(PAGE, BATCH * PAGE);

	for (;;) {
		uint64_t first = atomic_fetch_add(&next_page, BATCH);
		uint64_t end = first + BATCH < nr_stored ? first + BATCH : nr_stored;

		if (first >= nr_stored)
			break;
		int64_t start = read_batch(&table[first], &table[end], stage);

		for (uint64_t i = first; i < end; i++) {
			const struct descriptor *d = &table[i];
			const unsigned char *data = stage + (d->offset - start);
			unsigned char *page = buffer + (i - first) * PAGE;
			lzo_uint lzo_size = PAGE;
			size_t size = PAGE;

			switch (d->flags) {
			case 0:
				memcpy(page, data, PAGE);
				break;
			case 1:
				if (libdeflate_zlib_decompress(inflater, data, d->size, page, PAGE, &size))
					die("zlib");
				break;
			case 2:
				if (lzo1x_decompress_safe(data, d->size, page, &lzo_size, NULL))
					die("lzo");
				size = lzo_size;
				break;
			case 4:
				if (snappy_uncompress((const char *)data, d->size, (char *)page, &size))
					die("snappy");
				break;
			case 0x20:
				size = ZSTD_decompressDCtx(zstd, page, PAGE, data, d->size);
				break;
			default:
				die("unknown codec");
			}
			if (size != PAGE)
				die("page size");
		}
		if (pwrite(out_fd, buffer, (end - first) * PAGE, (off_t)(first * PAGE)) != (ssize_t)((end - first) * PAGE))
			die("pwrite");
	}
	return unused;
}

int main(int argc, char **argv)
{
	struct stat st;
	pthread_t threads[64];
	int nr_threads;

	if (argc < 4 || (nr_threads = atoi(argv[3])) < 1 || nr_threads > 64)
		die("usage: limit IN OUT THREADS [sync]");
	in_fd = open(argv[1], O_RDONLY);
	if (in_fd < 0 || fstat(in_fd, &st))
		die("open");
	file = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_SHARED, in_fd, 0);
	if (file == MAP_FAILED || memcmp(file, "KDUMP   ", 8) || u32(428) != PAGE)
		die("header");
	{
		size_t bitmaps = (1 + (size_t)u32(432)) * PAGE, size = (size_t)u32(436) * PAGE / 2;
		const uint64_t *bits = (const void *)(file + bitmaps + size);

		for (size_t i = 0; i < size / 8; i++)
			nr_stored += (uint64_t)__builtin_popcountll(bits[i]);
		table = (const void *)(file + bitmaps + 2 * size);
	}
	out_fd = open(argv[2], O_RDWR | O_CREAT | O_TRUNC, 0600);
	if (out_fd < 0 || lzo_init() || ftruncate(out_fd, (off_t)(nr_stored * PAGE)))
		die("output");
	for (int i = 0; i < nr_threads; i++)
		if (pthread_create(&threads[i], NULL, worker, NULL))
			die("thread");
	for (int i = 0; i < nr_threads; i++)
		pthread_join(threads[i], NULL);
	if (argc > 4 && !strcmp(argv[4], "sync") && fsync(out_fd))
		die("fsync");
	return close(out_fd) ? 1 : 0;
}
