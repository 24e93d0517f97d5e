// Before anything is drawn: the theme and the language that were chosen, or those of the browser. Not a module, so that
// it runs at once.
(() => {
  const recall = (key) => {
    try {
      return localStorage.getItem(key);
    } catch {
      return null;
    }
  };
  const root = document.documentElement;
  const theme = recall('contact-theme');
  if (theme === 'light' || theme === 'dark') root.dataset.theme = theme;
  const language = recall('contact-language') ?? navigator.language;
  root.lang = language.toLowerCase().startsWith('zh') ? 'zh-Hans' : 'en';
})();
