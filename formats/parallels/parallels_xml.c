/*
 * Loading libxml2, and the little that is used of it. The document is somebody else's: it is small,
 * has no document type (so that there are no entities), and libxml2 itself keeps to a depth of 256.
 */
#include "formats/parallels/parallels_xml.h"

#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

static struct {
	__typeof__(&xmlInitParser) init;
	__typeof__(&xmlReadMemory) read;
	__typeof__(&xmlFreeDoc) free;
	__typeof__(&xmlDocGetRootElement) root;
	__typeof__(&xmlGetLastError) last_error;
	__typeof__(&xmlResetLastError) reset_error;
	__typeof__(&xmlNewTextChild) add;
	__typeof__(&xmlNodeSetContent) set_content;
	__typeof__(&xmlNodeAddContent) add_content;
	__typeof__(&xmlDocDumpMemoryEnc) print;
	bool complete;
} library;

static void load_library(void)
{
	void *handle = dlopen("libxml2.so.2", RTLD_NOW | RTLD_LOCAL);

	if (!handle)
		return;
	library.complete = true;
	/* POSIX has functions fit into what dlsym() gives; ISO C does not say so */
#define LOAD(member, name) \
	{ \
		union { \
			void *object; \
			__typeof__(library.member) function; \
		} u = { .object = dlsym(handle, name) }; \
		library.member = u.function; \
		library.complete &= u.object != NULL; \
	}
	LOAD(init, "xmlInitParser")
	LOAD(read, "xmlReadMemory")
	LOAD(free, "xmlFreeDoc")
	LOAD(root, "xmlDocGetRootElement")
	LOAD(last_error, "xmlGetLastError")
	LOAD(reset_error, "xmlResetLastError")
	LOAD(add, "xmlNewTextChild")
	LOAD(set_content, "xmlNodeSetContent")
	LOAD(add_content, "xmlNodeAddContent")
	LOAD(print, "xmlDocDumpMemoryEnc")
#undef LOAD
	if (library.complete)
		library.init();
}

static int check_text(const char *text, size_t len, struct img_error *err)
{
	if (len > PARALLELS_XML_BYTES_MAX)
		return img_fail(err, -EUCLEAN, "%zu bytes of XML, allowed up to %d", len,
				PARALLELS_XML_BYTES_MAX);
	if (memchr(text, 0, len))
		return img_fail(err, -EUCLEAN, "a NUL byte in the XML, expected UTF-8");
	if (memmem(text, len, "<!DOCTYPE", 9) || memmem(text, len, "<!ENTITY", 8))
		return img_fail(
			err, -EUCLEAN,
			"a document type in the XML, which may declare entities: it is not parsed");
	return 0;
}

/* Without the full stop's newline that libxml2 ends its sentences with. */
static int fail_parse(struct img_error *err)
{
	const xmlError *e = library.last_error();
	size_t len = e && e->message ? strcspn(e->message, "\n") : 0;

	if (!len)
		return img_fail(err, -EUCLEAN, "not well-formed XML");
	return img_fail(err, -EUCLEAN, "not well-formed XML: line %d: %.*s", e->line,
			(int)(len < 200 ? len : 200), e->message);
}

int parallels_xml_parse(const char *text, size_t len, xmlDoc **out, xmlNode **root,
			struct img_error *err)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;
	int rc = check_text(text, len, err);
	xmlDoc *doc;

	if (rc)
		return rc;
	pthread_once(&once, load_library);
	if (!library.complete)
		return img_fail(
			err, -ENOPKG,
			"Parallels folders need libxml2 (libxml2.so.2), which is not installed");
	library.reset_error();
	doc = library.read(text, (int)len, NULL, "UTF-8",
			   XML_PARSE_NONET | XML_PARSE_NOERROR | XML_PARSE_NOWARNING);
	if (!doc)
		return fail_parse(err);
	*root = library.root(doc);
	if (doc->intSubset || !*root) {
		library.free(doc);
		return img_fail(err, -EUCLEAN, "a document type in the XML, expected an element");
	}
	*out = doc;
	return 0;
}

void parallels_xml_free(xmlDoc *doc)
{
	if (doc)
		library.free(doc);
}

xmlNode *parallels_xml_find(xmlNode *child, const char *name)
{
	while (child &&
	       (child->type != XML_ELEMENT_NODE || strcmp((const char *)child->name, name) != 0))
		child = child->next;
	return child;
}

static bool is_text(const xmlNode *n)
{
	return n->type == XML_TEXT_NODE || n->type == XML_CDATA_SECTION_NODE;
}

char *parallels_xml_text(const xmlNode *element)
{
	static const char space[] = " \t\r\n";
	size_t len = 0, at = 0, start;
	char *text;

	for (const xmlNode *n = element->children; n; n = n->next)
		len += is_text(n) ? strlen((const char *)n->content) : 0;
	text = malloc(len + 1);
	if (!text)
		return NULL;
	for (const xmlNode *n = element->children; n; n = n->next) {
		size_t bytes = is_text(n) ? strlen((const char *)n->content) : 0;

		if (bytes)
			memcpy(text + at, n->content, bytes);
		at += bytes;
	}
	text[len] = '\0';
	start = strspn(text, space);
	while (len > start && strchr(space, text[len - 1]))
		len--;
	memmove(text, text + start, len - start);
	text[len - start] = '\0';
	return text;
}

xmlNode *parallels_xml_add(xmlNode *parent, const char *name, const char *text)
{
	return library.add(parent, NULL, (const xmlChar *)name, (const xmlChar *)text);
}

int parallels_xml_set(xmlNode *parent, const char *name, const char *text)
{
	xmlNode *e = parallels_xml_find(parent->children, name);

	if (!e)
		return parallels_xml_add(parent, name, text) ? 0 : -ENOMEM;
	library.set_content(e, NULL);
	library.add_content(e, (const xmlChar *)text); /* which takes it as it is */
	return e->children ? 0 : -ENOMEM;
}

char *parallels_xml_print(xmlDoc *doc, size_t *len)
{
	xmlChar *text = NULL;
	int bytes = 0;

	library.print(doc, &text, &bytes, "UTF-8");
	*len = (size_t)bytes;
	return (char *)text; /* libxml2 allocates by malloc() unless it is told otherwise */
}
